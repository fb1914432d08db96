package model

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// write submits a write of one op and returns it.
func write(m *Model, lba, count uint64) *Op { return m.Submit(false, false, lba, count) }

func acked(m *Model, lba, count uint64) *Op {
	o := write(m, lba, count)
	m.Ack(o)
	return o
}

func TestReadOfConcurrentWrites(t *testing.T) {
	m := NewModel()
	a := acked(m, 1, 1)
	require.NoError(t, m.CheckRead(1, a.ID, m.Acks()))
	require.Error(t, m.CheckRead(1, 0, m.Acks()), "the write was acknowledged")
	b, c := write(m, 1, 1), write(m, 1, 1)
	for _, o := range []*Op{a, b, c} {
		require.NoError(t, m.CheckRead(1, o.ID, m.Acks()), "in flight: old or new")
	}
	m.Ack(c)
	m.Ack(b)
	require.Error(t, m.CheckRead(1, a.ID, m.Acks()))
	require.NoError(t, m.CheckRead(1, c.ID, m.Acks()), "the two were side by side")
	d := acked(m, 1, 1)
	require.Error(t, m.CheckRead(1, c.ID, m.Acks()))
	require.NoError(t, m.CheckRead(1, c.ID, m.Acks()-1), "a read that began before")
	require.NoError(t, m.CheckRead(1, d.ID, m.Acks()))
	require.Error(t, m.CheckRead(1, 99, m.Acks()))
	require.Error(t, m.CheckRead(7, 1, m.Acks()))
	require.NoError(t, m.CheckRead(7, 0, m.Acks()))
}

func TestReadSettlesTheOrder(t *testing.T) {
	m := NewModel()
	a, b := write(m, 1, 1), write(m, 1, 1)
	m.Ack(a)
	m.Ack(b)
	require.NoError(t, m.CheckRead(1, a.ID, m.Acks()), "either may be last")
	require.Error(t, m.CheckRead(1, b.ID, m.Acks()), "a was seen")
	m.Flushed(m.Acks())
	require.Error(t, m.Recovered(m.PowerLost(), map[uint64]uint64{1: b.ID}, false))
	require.NoError(t, m.Recovered(m.PowerLost(), map[uint64]uint64{1: a.ID}, false))
}

func TestPowerLossIsAPrefix(t *testing.T) {
	build := func() (*Model, []*Op) {
		m := NewModel()
		return m, []*Op{acked(m, 1, 1), acked(m, 2, 1), acked(m, 3, 1)}
	}
	for _, k := range []struct {
		name string
		keep [3]bool
		ok   bool
	}{
		{"nothing", [3]bool{}, true},
		{"the first", [3]bool{true, false, false}, true},
		{"two", [3]bool{true, true, false}, true},
		{"all", [3]bool{true, true, true}, true},
		{"a hole", [3]bool{true, false, true}, false},
		{"only the last", [3]bool{false, false, true}, false},
	} {
		m, ops := build()
		found := map[uint64]uint64{}
		for i, o := range ops {
			found[o.LBA] = 0
			if k.keep[i] {
				found[o.LBA] = o.ID
			}
		}
		err := m.Recovered(m.PowerLost(), found, false)
		require.Equal(t, k.ok, err == nil, "%s: %v", k.name, err)
	}
}

func TestFlushAndFUAAreDurable(t *testing.T) {
	m := NewModel()
	a := acked(m, 1, 1)
	at := m.Acks()
	acked(m, 2, 1)
	m.Flushed(at)
	require.Error(t, m.Recovered(m.PowerLost(), map[uint64]uint64{1: 0, 2: 0}, false))
	require.NoError(t, m.Recovered(m.PowerLost(), map[uint64]uint64{1: a.ID, 2: 0}, false))

	m = NewModel()
	a = acked(m, 1, 1)
	f := m.Submit(false, true, 2, 1)
	m.Ack(f)
	require.Error(t, m.Recovered(m.PowerLost(), map[uint64]uint64{1: a.ID, 2: 0}, false))
	require.Error(t, m.Recovered(m.PowerLost(), map[uint64]uint64{1: 0, 2: f.ID}, false))
	require.NoError(t, m.Recovered(m.PowerLost(), map[uint64]uint64{1: a.ID, 2: f.ID}, false))
}

func TestKillKeepsWhatWasAcknowledged(t *testing.T) {
	m := NewModel()
	a := acked(m, 1, 2)
	b := write(m, 2, 1)
	require.Error(t, m.Recovered(m.Killed(), map[uint64]uint64{1: a.ID, 2: 0}, false))
	require.NoError(t, m.Recovered(m.Killed(), map[uint64]uint64{1: a.ID, 2: b.ID}, false))
	require.NoError(t, m.Recovered(m.PowerLost(), map[uint64]uint64{1: a.ID, 2: b.ID}, false))
	require.Error(t, m.Recovered(m.PowerLost(), map[uint64]uint64{1: a.ID, 2: a.ID}, false), "it was recovered once")
}

func TestPartOfAnInterruptedWrite(t *testing.T) {
	m := NewModel()
	a := acked(m, 1, 1)
	w := write(m, 1, 3)
	require.NoError(t, m.Recovered(m.PowerLost(), map[uint64]uint64{1: a.ID, 2: w.ID, 3: 0}, false))

	// The part shows that what came before the write is there.
	m = NewModel()
	acked(m, 9, 1)
	w = write(m, 1, 3)
	require.Error(t, m.Recovered(m.PowerLost(), map[uint64]uint64{9: 0, 1: 0, 2: w.ID, 3: 0}, false))
}

func TestTrimIsAnOp(t *testing.T) {
	m := NewModel()
	a := acked(m, 1, 1)
	d := m.Submit(true, false, 1, 1)
	require.NoError(t, m.CheckRead(1, 0, m.Acks()))
	m.Ack(d)
	require.NoError(t, m.CheckRead(1, 0, m.Acks()))
	require.Error(t, m.CheckRead(1, a.ID, m.Acks()))
	m.Flushed(m.Acks())
	require.Error(t, m.Recovered(m.PowerLost(), map[uint64]uint64{1: a.ID}, false))
	require.NoError(t, m.Recovered(m.PowerLost(), map[uint64]uint64{1: 0}, false))
}

func TestFailedOpIsOldOrNewUntilReplaced(t *testing.T) {
	m := NewModel()
	a := acked(m, 1, 1)
	w := write(m, 1, 1)
	m.Fail(w)
	require.NoError(t, m.CheckRead(1, a.ID, m.Acks()))
	require.NoError(t, m.CheckRead(1, w.ID, m.Acks()))
	acked(m, 1, 1)
	require.Error(t, m.CheckRead(1, w.ID, m.Acks()))
}

// TestFailedOpThatWasSubmittedLater has a write fail before one that was submitted earlier is acknowledged: no order
// is known of the two.
func TestFailedOpThatWasSubmittedLater(t *testing.T) {
	m := NewModel()
	a, b := write(m, 1, 1), write(m, 1, 1)
	m.Fail(b)
	m.Ack(a)
	require.NoError(t, m.CheckRead(1, b.ID, m.Acks()))
	require.NoError(t, m.CheckRead(1, a.ID, m.Acks()))
}

func TestPruneKeepsTheAnswers(t *testing.T) {
	m := NewModel()
	var last *Op
	for range 100 {
		last = acked(m, 5, 1)
		m.Flushed(m.Acks())
	}
	require.LessOrEqual(t, len(m.blocks[5].ops), 2*pruneAt)
	require.NoError(t, m.CheckRead(5, last.ID, m.Acks()))
	require.Error(t, m.CheckRead(5, 0, m.Acks()))
	require.Error(t, m.CheckRead(5, last.ID-50, m.Acks()))
}

func TestStampAndIdentify(t *testing.T) {
	a, b := make([]byte, BlockSize), make([]byte, BlockSize)
	Stamp(a, 7, 3)
	id, err := Identify(a, 3)
	require.NoError(t, err)
	require.EqualValues(t, 7, id)
	_, err = Identify(a, 4)
	require.Error(t, err)
	Stamp(b, 8, 3)
	copy(a[2048:], b[2048:])
	_, err = Identify(a, 3)
	require.ErrorContains(t, err, "torn")
	Stamp(a, 7, 3)
	a[1000] ^= 4
	_, err = Identify(a, 3)
	require.ErrorContains(t, err, "damaged")
	clear(a)
	id, err = Identify(a, 3)
	require.NoError(t, err)
	require.Zero(t, id)
	a[4095] = 1
	_, err = Identify(a, 3)
	require.Error(t, err)
}

// TestFailedBesideAnother: a write that fails while another is under way may end up on top of it, one that failed
// before the other was submitted may not.
func TestFailedBesideAnother(t *testing.T) {
	m := NewModel()
	a := m.Submit(false, false, 1, 1)
	b := m.Submit(false, false, 1, 1)
	m.Fail(a)
	m.Ack(b)
	require.NoError(t, m.CheckRead(1, a.ID, m.Acks()))

	m = NewModel()
	a = m.Submit(false, false, 1, 1)
	m.Fail(a)
	b = m.Submit(false, false, 1, 1)
	m.Ack(b)
	require.Error(t, m.CheckRead(1, a.ID, m.Acks()))
	require.NoError(t, m.CheckRead(1, b.ID, m.Acks()))
}
