package aio

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/tests/filetest"
)

func open(path string, o filetest.Options) (bdev.Driver, error) {
	d := DirectAuto
	switch {
	case o.Direct:
		d = DirectOn
	case o.Cache:
		d = DirectOff
	}
	return New(path, Options{Size: o.Size, Create: o.Create, Direct: d, ReadOnly: o.ReadOnly, Depth: o.Depth})
}

func TestSuite(t *testing.T) { filetest.Run(t, open) }

func TestThreads(t *testing.T) {
	filetest.RunThreads(t, open)
}

func TestDevices(t *testing.T) {
	filetest.RunDevices(t, open)
}

func TestOptionsOutOfRange(t *testing.T) {
	for _, o := range []Options{{Depth: -1}, {Depth: DepthMax + 1}, {Workers: -1}, {Workers: WorkersMax + 1}} {
		_, err := New(t.TempDir(), o)
		require.ErrorIs(t, err, unix.EINVAL)
	}
}

// go test -run xxx -bench AgainstFio -benchtime 9x: each round is half a second
// of each side. fio uses io_uring here too.
func BenchmarkAgainstFio(b *testing.B) { filetest.AgainstFio(b, open) }
