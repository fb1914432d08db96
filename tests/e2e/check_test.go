//go:build e2e

package e2e

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/tests/sim/model"
)

// TestRot damages data and metadata behind the device's back: check finds it (exit code 3), reads of damaged blocks
// fail and never return something wrong, all others are right.
func TestRot(t *testing.T) {
	needOurs(t)
	const size, bytes = "64MiB", 64 << 20
	dir := shortDir(t)
	s := serveIn(t, dir, size, "--shm", "off")
	w := newWriter(t, seedOf(t), 0, bytes/model.BlockSize)
	w.maxLen, w.trim = 64, 0
	c := s.dial(32)
	w.sweep(c, 64)
	w.run(c, 32, 3000) // until a good part has moved to the base
	w.drain(c)
	require.NoError(t, c.Flush())
	c.Close()
	s.stop()
	s.check()
	in := inspect(t, dir)
	hit := 0
	for _, region := range in.Layout.Regions {
		if region.Name != "chunks" && region.Name != "bands" {
			continue
		}
		file := filepath.Join(dir, map[string]string{"chunks": "cache.img", "bands": "base.img"}[region.Name])
		for i := range uint64(20) {
			at := int64((region.Offset + region.Blocks*i/20 + 7) * 4096)
			edit(t, file, at, func(b []byte) {
				for _, v := range b {
					if v != 0 {
						b[2222] ^= 4
						hit++
						return
					}
				}
			})
		}
	}
	require.NotZero(t, hit)
	out, code := ftlnbd(t, "", "check", "--dir", dir)
	require.Equal(t, 3, code, out)
	require.Contains(t, out, "DAMAGED")
	require.Contains(t, out, "problem: ")
	s = s.again()
	c = s.dial(8)
	bad := 0
	buf := make([]byte, model.BlockSize)
	for lba := range uint64(bytes / model.BlockSize) {
		_, err := c.ReadAt(buf, int64(lba*model.BlockSize))
		if err != nil {
			require.True(t, errors.Is(err, unix.EIO), "block %d: %v", lba, err)
			bad++
			continue
		}
		id, err := model.Identify(buf, lba)
		require.NoError(t, err)
		require.NoError(t, w.m.CheckRead(lba, id, w.m.Acks()))
	}
	t.Logf("%d blocks were damaged on the devices, %d reads failed", hit, bad)
	require.NotZero(t, bad)
	require.LessOrEqual(t, bad, hit)
	// What was damaged is whole again once it is written anew.
	w.sweep(c, 64)
	w.verify(c)
	c.Close()
	s.stop()
	s.check()
}

// TestRottenMetadata damages one copy of each kind of metadata that has two: nothing is lost, and the copy is repaired.
func TestRottenMetadata(t *testing.T) {
	needOurs(t)
	good := newStopped(t, 6)
	in := inspect(t, good.dir)
	for _, region := range in.Layout.Regions {
		switch region.Name {
		case "chunks", "bands", "l2p_slot0", "l2p_slot1", "sb", "sb_mirror", "": // the superblock has a test of its own
			continue
		}
		t.Run(region.Name, func(t *testing.T) {
			dir := good.copy(t)
			file := filepath.Join(dir, []string{"cache.img", "base.img"}[region.Dev])
			for i := range region.Blocks {
				edit(t, file, int64((region.Offset+i)*4096), func(b []byte) { b[i%4096] ^= 0x40 })
			}
			out, code := ftlnbd(t, "", "check", "--dir", dir)
			require.Zero(t, code, out)
			s := serveIn(t, dir, "", "--shm", "off")
			s.stop()
			s.check()
		})
	}
}
