package verify

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzState: a state file that somebody has changed is refused, or can be used: whatever it says, what is written from
// now on is checked, and says what is wrong only if it is.
func FuzzState(f *testing.F) {
	const units, unit = 8, 4096
	head := func(words ...uint64) (b []byte) {
		for _, w := range words {
			b = binary.LittleEndian.AppendUint64(b, w)
		}
		return b
	}
	entries := func(list ...uint32) (b []byte) {
		for _, e := range list {
			b = binary.LittleEndian.AppendUint32(b, e)
		}
		return b
	}
	ours := head(tableMagic, tableVersion, units, unit, 77)
	f.Add(ours, entries(), 0)
	f.Add(ours, entries(genMask|aheadMask, ^uint32(0), trimmed|pendingTrim, locked, lost|5, aheadMask, genMask, 1), 0)
	f.Add(head(0, tableVersion, units, unit, 77), entries(), 0)
	f.Add(head(tableMagic, tableVersion+1, units, unit, 77), entries(), 0)
	f.Add(head(tableMagic, tableVersion, units+256, unit, 77), entries(), 0)
	f.Add(head(tableMagic, tableVersion, units, 512, 77), entries(), 0)
	f.Add(head(tableMagic, tableVersion, units, unit, 1<<63), entries(3, 2, 1), 0)
	f.Add(ours, entries(), -4*units)
	f.Add(ours, entries(1, 2, 3), 1)
	f.Fuzz(func(t *testing.T, head, entries []byte, longer int) {
		file := make([]byte, tableHeader+4*units+4096)
		copy(file, head[:min(len(head), 8*headerWords)])
		copy(file[tableHeader:], entries)
		file = file[:max(0, min(tableHeader+4*units+longer%8192, len(file)))]
		path := filepath.Join(t.TempDir(), "state")
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		tab, err := OpenTable(path, units, unit, 1)
		if err != nil {
			if !errors.Is(err, ErrState) || !errors.Is(err, unix.EINVAL) {
				t.Fatal(err)
			}
			return
		}
		if tab.Units() != units || tab.KnownUnits() > units {
			t.Fatalf("%d units, %d known", tab.Units(), tab.KnownUnits())
		}
		buf := make([]byte, unit)
		for i := range uint64(units) {
			tab.Check(buf, i)
			if !tab.TryLock(i, 1) {
				t.Fatalf("unit %d is locked by nobody", i)
			}
			tab.BeginWrite(buf, i)
			tab.EndWrite(i, 1, true)
			if m, ok := tab.Check(buf, i); !ok {
				t.Fatalf("what was written just now: %v", m)
			}
			buf[100] ^= 1
			if m, ok := tab.Check(buf, i); ok && tab.entries[i]&lost == 0 || m.String() == "" {
				t.Fatalf("damage: %v", m)
			}
			tab.TryLock(i, 1)
			tab.BeginTrim(i, 1)
			tab.EndTrim(i, 1, i%2 == 0)
		}
		if err := tab.Close(); err != nil {
			t.Fatal(err)
		}
		if tab, err = OpenTable(path, units, unit, 1); err != nil {
			t.Fatal(err)
		}
		_ = tab.Close()
	})
}
