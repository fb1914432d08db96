package ftl

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// FuzzShmHead: a killed device whose mapping in shared memory has another header than it left, or another length. It is
// not taken over if anything in front of the numbers of the log differs, and then everything is right all the same;
// with other numbers the load ends, and what was loaded can be used and stopped.
func FuzzShmHead(f *testing.F) {
	const numbers = uint16(unsafe.Offsetof(shmHead{}.acked))
	b := newBed(f, mini)
	b.cfg.ShmDir = f.TempDir()
	b.create()
	b.fillTo(300)
	b.sync()
	b.put(7, 3)
	files, err := filepath.Glob(filepath.Join(b.cfg.ShmDir, "*"))
	require.NoError(f, err)
	require.Len(f, files, 1)
	whole, err := os.ReadFile(files[0])
	require.NoError(f, err)
	b.image() // makes the twin
	u64 := func(v uint64) []byte { return binary.NativeEndian.AppendUint64(nil, v) }

	f.Add(uint16(0), []byte{}, 0)
	f.Add(uint16(0), []byte{1, 2}, 0)                             // magic
	f.Add(uint16(8), []byte{9}, 0)                                // UUID
	f.Add(uint16(unsafe.Offsetof(shmHead{}.lbas)), u64(1<<40), 0) // blocks
	f.Add(uint16(unsafe.Offsetof(shmHead{}.width)), u64(8), 0)    // width
	f.Add(uint16(unsafe.Offsetof(shmHead{}.inc)), u64(0), 0)      // invalid
	f.Add(numbers, u64(1), 0)                                     // older than it is
	f.Add(numbers, append(u64(1<<62), u64(1<<63)...), 0)          // newer
	f.Add(numbers+8, u64(^uint64(0)), 0)                          // the last number of all
	f.Add(uint16(shmHeader-1), []byte{1}, -5)                     // too short
	f.Add(uint16(0), []byte{}, 1)                                 // too long
	f.Add(numbers, append(u64(^uint64(0)), u64(0)...), 0)
	f.Fuzz(func(t *testing.T, at uint16, with []byte, longer int) {
		at %= shmHeader
		with = with[:min(len(with), int(shmHeader-at))]
		file := append([]byte(nil), whole...)
		copy(file[at:], with)
		differs := string(file[:numbers]) != string(whole[:numbers])
		longer %= 8192
		if longer < 0 {
			file = file[:len(file)+longer]
		} else {
			file = append(file, make([]byte, longer)...)
		}
		_ = os.Remove(files[0]) // the killed device, and the last load, may have it mapped
		require.NoError(t, os.WriteFile(files[0], file, 0o600))
		b.t = t
		tw := b.image()
		if err := tw.start(tw.cfg); err != nil {
			tw.noChannels()
			return
		}
		if differs || longer != 0 {
			require.False(t, tw.d.fromShm)
			tw.good()
			tw.stop(true)
			return
		}
		require.True(t, tw.d.fromShm)
		if string(file) == string(whole) {
			tw.good()
		}
		tw.use(uint8(at))
	})
}
