//go:build e2e

package e2e

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

const imageBytes = 256 << 20

// image makes a file of data, holes and repetitions.
func image(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "source.img")
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	r := rand.New(rand.NewPCG(1, 2))
	buf := make([]byte, 1<<20)
	for at := int64(0); at < imageBytes; at += int64(len(buf)) {
		switch r.IntN(4) {
		case 0: // a hole
			continue
		case 1:
			copy(buf, bytes.Repeat([]byte{byte(at >> 20)}, len(buf)))
		default:
			for i := 0; i < len(buf); i += 8 {
				v := r.Uint64()
				for k := range 8 {
					buf[i+k] = byte(v >> (8 * k))
				}
			}
		}
		_, err := f.WriteAt(buf, at)
		require.NoError(t, err)
	}
	require.NoError(t, f.Truncate(imageBytes))
	return path
}

func sameFiles(t *testing.T, a, b string) {
	t.Helper()
	x, err := fileSum(a)
	require.NoError(t, err)
	y, err := fileSum(b)
	require.NoError(t, err)
	require.Equal(t, x, y, "%s and %s differ", a, b)
}

func TestNBDCopy(t *testing.T) {
	for _, k := range []kind{plain, others[0], others[4]} {
		t.Run(k.slug(), func(t *testing.T) {
			k.only(t)
			testNBDCopy(t, k)
		})
	}
}

func testNBDCopy(t *testing.T, k kind) {
	need(t, "nbdcopy", "nbdinfo")
	dir := shortDir(t)
	src, back := image(t, dir), filepath.Join(dir, "back.img")
	s := k.serve(t, "256MiB")
	info := run(t, "nbdinfo", "--json", s.uri())
	require.Contains(t, info, `"export-size": 268435456`)
	run(t, "nbdcopy", "--flush", src, s.uri())
	run(t, "nbdcopy", s.uri(), back)
	sameFiles(t, src, back)
	s.stop()
	s.check()
	s = s.again()
	run(t, "nbdcopy", "--connections=4", "--requests=32", s.uri(), back)
	sameFiles(t, src, back)
	// Once more over what is there, through requests that are not multiples of 4 KiB.
	run(t, "nbdcopy", "--request-size=33554432", "--allocated", "--flush", src, s.uri())
	run(t, "nbdcopy", "--synchronous", s.uri(), back)
	sameFiles(t, src, back)
	s.stop()
}

func TestQemuImg(t *testing.T) {
	for _, k := range kinds() {
		t.Run(k.slug(), func(t *testing.T) {
			k.only(t)
			testQemuImg(t, k)
		})
	}
}

func testQemuImg(t *testing.T, k kind) {
	need(t, "qemu-img", "qemu-io")
	dir := shortDir(t)
	src, back := image(t, dir), filepath.Join(dir, "back.img")
	s := k.serve(t, "256MiB")
	run(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", src, s.uri())
	run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", src, s.uri())
	run(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", s.uri(), back)
	sameFiles(t, src, back)
	run(t, "qemu-io", "-f", "raw",
		"-c", "write -P 0xab 1M 64k", "-c", "write -P 0xcd 1049088 512", "-c", "discard 2M 64k", "-c", "write -z 3M 1M", "-c", "flush",
		"-c", "read -P 0xab 1M 512", "-c", "read -P 0xcd 1049088 512", "-c", "read -P 0xab 1049600 512", "-c", "read -P 0 2M 64k",
		"-c", "read -P 0 3M 1M", s.uri())
	s.kill()
	s = s.again()
	out := run(t, "qemu-io", "-f", "raw", "-c", "read -P 0xcd 1049088 512", "-c", "read -P 0 2M 64k", "-c", "read -P 0 3M 1M", s.uri())
	require.NotContains(t, out, "Pattern verification failed")
	s.stop()
	s.check()
}

// TestQcow2 keeps a qcow2 image on the export, which qemu-img then checks.
func TestQcow2(t *testing.T) {
	for _, k := range []kind{plain, others[1], others[2]} {
		t.Run(k.slug(), func(t *testing.T) {
			k.only(t)
			testQcow2(t, k)
		})
	}
}

func testQcow2(t *testing.T, k kind) {
	need(t, "qemu-img")
	dir := shortDir(t)
	src := image(t, dir)
	s := k.serve(t, "512MiB")
	run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", src, s.uri())
	run(t, "qemu-img", "check", "-f", "qcow2", s.uri())
	s.stop()
	s = s.again()
	run(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", src, s.uri())
	s.stop()
}
