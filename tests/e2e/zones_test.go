//go:build e2e

package e2e

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestBadZones asks for zoned and cacheless devices that cannot be: the answer says what would do, and nothing is left
// behind. Then for existing ones in another way than they were made.
func TestBadZones(t *testing.T) {
	needOurs(t)
	dir := shortDir(t)
	for _, k := range []struct {
		args []string
		says string
	}{
		{[]string{"--no-cache", "--zones", "2MiB,units=2"}, "name a small conventional device for the metadata (--metadata SPEC"},
		{[]string{"--no-cache", "--base", "zone:2MiB,units=2,persist:file:" + dir + "/d/b,size=200MiB"}, "(--metadata SPEC"},
		{[]string{"--no-cache", "--base", "zone:64MiB,conv=1,persist:file:" + dir + "/d/b,size=512MiB"}, "12 are needed"},
		{[]string{"--zones", "2MiB,units=4,open=7"}, "use fewer parallel units"},
		{[]string{"--zones", "2MiB,units=4,active=7"}, "use fewer parallel units"},
		{[]string{"--no-cache", "--zones", "2MiB", "--metadata", "file:" + dir + "/d/m,size=128KiB"}, "too small"},
		{[]string{"--base", "zone:2MiB:file:" + dir + "/d/b,size=400MiB"}, "without persist"},
		{[]string{"--no-cache", "--zones", "2MiB,unit=8KiB,conv=3"}, "metadata needs 1"},
	} {
		out, code := ftlnbd(t, "", append([]string{"serve", "--shm", "off", "--size", "64MiB", "--dir", dir + "/d"}, k.args...)...)
		require.Equal(t, 1, code, "%v: %s", k.args, out)
		require.Contains(t, out, k.says, k.args)
		require.NoDirExists(t, filepath.Join(dir, "d"), "%v left something behind", k.args)
	}

	cached, alone, zoned := plain.serve(t, "64MiB"), others[2].serve(t, "64MiB"), others[3].serve(t, "64MiB")
	file := func(s *server, name string) string { return filepath.Join(s.dir, name) }
	conv := "zone:" + others[3].zones + ",persist:file:" + file(zoned, "base.img")
	for _, s := range []*server{cached, alone, zoned} {
		s.stop()
	}
	for _, k := range []struct {
		s    *server
		args []string
		code int
		says string
	}{
		{cached, []string{"--no-cache"}, 1, "has a cache device too"},
		{cached, []string{"--zones", "2MiB"}, 1, ""},
		{alone, []string{"--cache", "file:" + file(cached, "cache.img")}, 2, "was made with"},
		{alone, []string{"--cache", "file:" + file(cached, "cache.img"), "--base", "file:" + file(alone, "base.img")}, 1, ""},
		{alone, []string{"--zones", "2MiB,conv=3"}, 2, "was made with"},
		{zoned, []string{"--zones", "4MiB,units=2,conv=3"}, 2, "was made with"},
		{zoned, []string{"--no-cache", "--base", "file:" + file(zoned, "base.img")}, 1, ""},
		{zoned, []string{"--no-cache", "--base", "zone:4MiB,units=2,conv=3,open=8,persist:file:" + file(zoned, "base.img")}, 1, "zones of"},
		{zoned, []string{"--no-cache", "--metadata", "file:" + file(cached, "cache.img"), "--base", conv}, 1, ""},
		{zoned, []string{"--cache", "file:" + file(cached, "cache.img"), "--base", conv}, 1, ""},
	} {
		before := sums(t, k.s.dir)
		for _, command := range [][]string{{"serve", "--shm", "off"}, {"check"}, {"inspect"}} {
			out, code := ftlnbd(t, "", append(append(command, "--dir", k.s.dir), k.args...)...)
			require.Equal(t, k.code, code, "%v %v: %s", command, k.args, out)
			require.Contains(t, out, k.says, "%v %v", command, k.args)
			require.NotContains(t, out, "goroutine", "%v %v", command, k.args)
		}
		require.Equal(t, before, sums(t, k.s.dir), "%v: a refused device was written to", k.args)
	}
	for _, s := range []*server{cached, alone, zoned} {
		s.check()
		s = s.bare().again()
		s.stop()
	}
}

// TestZonesShown: plan, and inspect before and after writes, show that one zone of every unit makes a band.
func TestZonesShown(t *testing.T) {
	needOurs(t)
	k := kind{noCache: true, zones: "2MiB,units=3,conv=3,cap=1536KiB,offline=7"}
	s := k.serve(t, "64MiB", "--limit-relocate", "9")
	_, err := s.dial(4).WriteAt(make([]byte, 8<<20), 0)
	require.NoError(t, err)
	s.kill()
	out, code := ftlnbd(t, "", "plan", "--dir", s.dir)
	require.Zero(t, code, out)
	for _, words := range []string{"one zone of each of 3 units makes a band", "limit-relocate        9 %", "the first 3 are conventional"} {
		require.Contains(t, out, words)
	}
	segs := inspect(t, s.dir, "--segments").Segments
	require.NotEmpty(t, segs)
	next := 3
	written := 0.0
	for _, seg := range segs {
		zones := seg["Zones"].([]any)
		require.Len(t, zones, 3)
		for _, z := range zones {
			z := z.(map[string]any)
			require.EqualValues(t, next, z["Zone"], "bands take the zones in turn")
			require.EqualValues(t, 384, z["Capacity"])
			require.Equal(t, next != 7, z["InUse"])
			written += z["Written"].(float64)
			next++
		}
	}
	require.GreaterOrEqual(t, written, 2048.0)
	out, code = ftlnbd(t, "", "inspect", "--dir", s.dir, "--segments")
	require.Zero(t, code, out)
	for _, words := range []string{"offline, 0 of 384 blocks written, the band does without it", "1 offline", "chunks       none", "full, 384 of 384"} {
		require.Contains(t, out, words)
	}
	out, code = ftlnbd(t, "yes\n", "destroy", "--dir", s.dir)
	require.Zero(t, code, out)
	left, err := filepath.Glob(filepath.Join(s.dir, "*"))
	require.NoError(t, err)
	require.Equal(t, []string{s.log.Name()}, left)
}

// TestDestroyZones wipes devices that were given by specs: all of their zones are empty then, and a new device is made.
func TestDestroyZones(t *testing.T) {
	needOurs(t)
	for _, k := range []kind{others[1], others[3], others[4]} {
		dir := shortDir(t)
		s := serveIn(t, dir, "64MiB", k.small(dir, "")...)
		_, err := s.dial(4).WriteAt(make([]byte, 24<<20), 0)
		require.NoError(t, err)
		s.stop()
		out, code := ftlnbd(t, "", append([]string{"destroy", "--yes"}, s.specs()...)...)
		require.Zero(t, code, out)
		out, code = ftlnbd(t, "", append([]string{"inspect"}, s.specs()...)...)
		require.Equal(t, 1, code, out)
		require.Contains(t, out, "blank")
		s = s.again()
		require.Contains(t, s.output(), "created", k.name)
		s.stop()
		s.check()
	}
}
