package verify

import (
	"errors"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func fill(unit []byte, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range unit {
		unit[i] = byte(r.Uint64())
	}
}

func TestStampIsReadBack(t *testing.T) {
	for _, size := range []int{512, 1024, 4096} {
		unit := make([]byte, size)
		fill(unit, 1)
		Stamp(unit, 123*4096, 7, 99)
		if g, v := Read(unit, 123*4096, 99); v != Good || g != 7 {
			t.Errorf("%d bytes: %v of generation %d", size, v, g)
		}
	}
}

// Every kind of damage is told apart, and every flipped bit is noticed.
func TestDamageIsToldApart(t *testing.T) {
	stamped := func(offset, generation, seed uint64) []byte {
		unit := make([]byte, 4096)
		fill(unit, 5)
		Stamp(unit, offset, generation, seed)
		return unit
	}
	torn := stamped(8192, 3, 1)
	copy(torn[2048:], stamped(8192, 2, 1)[2048:])
	tornHeader := stamped(8192, 2, 1)
	copy(tornHeader[:512], stamped(8192, 3, 1)[:512])
	for _, c := range []struct {
		name string
		unit []byte
		want Verdict
	}{
		{"good", stamped(8192, 3, 1), Good},
		{"zeroes", make([]byte, 4096), Zeroes},
		{"misplaced", stamped(4096, 3, 1), Misplaced},
		{"foreign", stamped(8192, 3, 2), Foreign},
		{"torn tail", torn, Torn},
		{"torn header", tornHeader, Torn},
	} {
		if _, v := Read(c.unit, 8192, 1); v != c.want {
			t.Errorf("%s: %v", c.name, v)
		}
	}
	for bit := 0; bit < 4096*8; bit += 37 {
		unit := stamped(8192, 3, 1)
		unit[bit/8] ^= 1 << (bit % 8)
		if _, v := Read(unit, 8192, 1); v == Good || v == Zeroes {
			t.Fatalf("bit %d flipped: %v", bit, v)
		}
	}
}

func table(t *testing.T, units uint64) *Table {
	t.Helper()
	tab, err := NewTable(units, 4096, 42)
	if err != nil {
		t.Fatal(err)
	}
	tab.TrimZeroes = true
	t.Cleanup(func() { _ = tab.Close() })
	return tab
}

func write(t *testing.T, tab *Table, i uint64, ok bool) []byte {
	t.Helper()
	buf := make([]byte, 4096)
	if !tab.TryLock(i, 1) {
		t.Fatal("locked")
	}
	tab.BeginWrite(buf, i)
	tab.EndWrite(i, 1, ok)
	return buf
}

func mustAccept(t *testing.T, tab *Table, i uint64, what string, unit []byte) {
	t.Helper()
	if m, ok := tab.Check(unit, i); !ok {
		t.Errorf("%s refused: %v", what, m)
	}
}

func mustRefuse(t *testing.T, tab *Table, i uint64, what string, unit []byte) {
	t.Helper()
	before := tab.entries[i]
	if _, ok := tab.Check(unit, i); ok {
		t.Errorf("%s accepted", what)
	}
	if _, ok := tab.Check(unit, i); !ok {
		t.Errorf("%s reported twice", what)
	}
	tab.entries[i] = before
}

func TestOnlyTheAcknowledgedGenerationIsRight(t *testing.T) {
	tab := table(t, 10)
	zero := make([]byte, 4096)
	mustAccept(t, tab, 3, "anything before the first write", zero)
	first := write(t, tab, 3, true)
	second := write(t, tab, 3, true)
	mustAccept(t, tab, 3, "the last write", second)
	mustRefuse(t, tab, 3, "a stale block", first)
	mustRefuse(t, tab, 3, "zeroes", zero)
}

func TestAfterAFailedWriteBothAreRightUntilOneWasSeen(t *testing.T) {
	zero := make([]byte, 4096)
	for _, sawNew := range []bool{true, false} {
		tab := table(t, 4)
		older := write(t, tab, 1, true)
		old := write(t, tab, 1, true)
		failed := write(t, tab, 1, false)
		failedToo := write(t, tab, 1, false)
		mustRefuse(t, tab, 1, "older", older)
		mustRefuse(t, tab, 1, "zeroes", zero)
		if sawNew {
			mustAccept(t, tab, 1, "second failed write", failedToo)
			mustRefuse(t, tab, 1, "old after new was seen", old)
			mustRefuse(t, tab, 1, "first failed after the second was seen", failed)
		} else {
			mustAccept(t, tab, 1, "old", old)
			mustRefuse(t, tab, 1, "new after old was seen", failedToo)
		}
		mustAccept(t, tab, 1, "the next write", write(t, tab, 1, true))
		mustRefuse(t, tab, 1, "old after the next write", old)
	}
}

func TestTrim(t *testing.T) {
	zero := make([]byte, 4096)
	tab := table(t, 4)
	old := write(t, tab, 2, true)
	trim := func(ok bool) {
		if !tab.TryLock(2, 1) {
			t.Fatal("locked")
		}
		tab.BeginTrim(2, 1)
		tab.EndTrim(2, 1, ok)
	}
	trim(true)
	mustAccept(t, tab, 2, "zeroes after trim", zero)
	mustRefuse(t, tab, 2, "old after trim", old)
	tab.TrimZeroes = false
	mustAccept(t, tab, 2, "old after an advisory trim", old)
	tab.TrimZeroes = true
	again := write(t, tab, 2, true)
	trim(false)
	mustAccept(t, tab, 2, "data after a failed trim", again)
	trim(false)
	mustAccept(t, tab, 2, "zeroes after a failed trim", zero)
	mustRefuse(t, tab, 2, "data after the trim was seen", again)
	mustAccept(t, tab, 2, "a write after all", write(t, tab, 2, true))
	mustRefuse(t, tab, 2, "zeroes after a write", zero)
}

func TestManyFailuresForget(t *testing.T) {
	tab := table(t, 1)
	write(t, tab, 0, true)
	for range 20 {
		write(t, tab, 0, false)
	}
	mustAccept(t, tab, 0, "anything", make([]byte, 4096))
	good := write(t, tab, 0, true)
	mustAccept(t, tab, 0, "the write", good)
	mustRefuse(t, tab, 0, "zeroes", make([]byte, 4096))
}

func TestGenerationsWrapAround(t *testing.T) {
	tab := table(t, 1)
	tab.entries[0] = genMask - 1
	for range 4 {
		old := write(t, tab, 0, true)
		unit := write(t, tab, 0, true)
		mustAccept(t, tab, 0, "wrapped", unit)
		mustRefuse(t, tab, 0, "stale", old)
	}
	if tab.entries[0] > 16 {
		t.Errorf("entry %#x did not wrap", tab.entries[0])
	}
}

func TestLocksAreAllOrNothing(t *testing.T) {
	tab := table(t, 8)
	if !tab.TryLock(2, 2) || tab.TryLock(0, 3) || !tab.TryLock(0, 2) || tab.TryLock(3, 1) {
		t.Fatal("locks overlap")
	}
	tab.Unlock(2, 2)
	if !tab.TryLock(2, 4) {
		t.Fatal("lock not released")
	}
}

// A table in a file knows, in the next process, what was acknowledged and what
// was in flight.
func TestStateSurvives(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	tab, err := OpenTable(path, 100, 4096, 7)
	if err != nil {
		t.Fatal(err)
	}
	acked := write(t, tab, 5, true)
	inFlight := make([]byte, 4096)
	tab.TryLock(6, 1)
	tab.BeginWrite(inFlight, 6)
	if err := tab.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := OpenTable(path, 100, 4096, 12345)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = again.Close() }()
	if again.Seed() != 7 || again.KnownUnits() != 2 {
		t.Fatalf("seed %d, %d known", again.Seed(), again.KnownUnits())
	}
	mustAccept(t, again, 5, "acknowledged", acked)
	mustRefuse(t, again, 5, "nothing", make([]byte, 4096))
	mustAccept(t, again, 6, "in flight, not arrived", make([]byte, 4096))
	mustAccept(t, again, 6, "in flight, arrived", inFlight)
	for _, c := range [][2]uint64{{101, 4096}, {100, 512}} {
		if _, err := OpenTable(path, c[0], c[1], 7); !errors.Is(err, unix.EINVAL) {
			t.Errorf("units %v accepted: %v", c, err)
		}
	}
}

func TestHotPathDoesNotAllocate(t *testing.T) {
	tab, buf := table(t, 16), make([]byte, 4096)
	if a := testing.AllocsPerRun(100, func() {
		tab.TryLock(1, 1)
		tab.BeginWrite(buf, 1)
		tab.EndWrite(1, 1, true)
		tab.Check(buf, 1)
	}); a != 0 {
		t.Errorf("%v allocations", a)
	}
}

func BenchmarkStamp(b *testing.B) {
	unit := make([]byte, 4096)
	for b.Loop() {
		Stamp(unit, 4096, 7, 1)
	}
}
