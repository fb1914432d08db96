package cli

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"goftl/apps/ftlnbd/internal/stack"
)

func command(args ...string) (out string, code int) {
	var b bytes.Buffer
	code = Main(args, &b, &b)
	return b.String(), code
}

// TestI6Plan: plan shows every setting and what it comes to, for every type of base.
func TestI6Plan(t *testing.T) {
	for _, k := range []struct {
		args     []string
		has, not []string
	}{
		{nil, []string{"cache file", "limit-throttle", "redo-limit", "4 GiB", "max-channels"}, []string{"limit-user", "zone"}},
		{[]string{"--limit-throttle=20"}, []string{"limit-throttle        20 %         with 25 free chunks"}, nil},
		{[]string{"--no-cache"}, []string{"base file", "cache                 none", "limit-user", "9: 100 %", "band-threshold"}, []string{"cache file", "limit-throttle"}},
		{
			[]string{"--zones=16MiB,units=4,open=16,unit=16KiB"},
			[]string{"one zone of each of 4 units makes a band", "zone-units            4", "open at a time: 16", "units of 16KiB", "limit-throttle"},
			nil,
		},
		{[]string{"--zones=16MiB,units=4", "--zone-units=2", "--zone-append"}, []string{"of each of 2 units", "by append"}, nil},
		{[]string{"--no-cache", "--zones=16MiB,units=4,conv=3"}, []string{"zone 3 is the first", "the first 3 are conventional", "limit-user"}, nil},
		{[]string{"--no-cache", "--zones=16MiB,units=4", "--metadata=malloc:64MiB"}, []string{"a device of 64 MiB holds metadata"}, nil},
	} {
		out, code := command(append([]string{"plan", "--size=8GiB"}, k.args...)...)
		require.Zero(t, code, "%v: %s", k.args, out)
		require.Contains(t, out, "usable capacity       8 GiB", k.args)
		for _, words := range k.has {
			require.Contains(t, out, words, k.args)
		}
		for _, words := range k.not {
			require.NotContains(t, out, words, k.args)
		}
	}
}

// TestI2Refused: what cannot be says what is wrong and what would do.
func TestI2Refused(t *testing.T) {
	for _, k := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--no-cache", "--cache=malloc:1GiB"}, exitUsage, "--metadata"},
		{[]string{"--metadata=malloc:1GiB"}, exitUsage, "--no-cache"},
		{[]string{"--no-cache", "--cache-size=1GiB"}, exitUsage, "there is a cache or there is none"},
		{[]string{"--zones=1MiB", "--base=malloc:1GiB", "--dir=x"}, exitUsage, "give one of them"},
		{[]string{"--base=malloc:1GiB"}, exitUsage, "--no-cache"},
		{[]string{"--cache=malloc:1GiB"}, exitUsage, "name the base"},
		{[]string{"--limit-relocate=100"}, exitUsage, "--limit-relocate 100: is 100, must be 1 to 99"},
		{[]string{"--no-cache", "--zones=16MiB,units=4"}, exitFailed, "--metadata SPEC names one; conv=N"},
		{[]string{"--no-cache", "--zones=16MiB,units=4", "--metadata=malloc:1MiB"}, exitFailed, "metadata device of 1 MiB is too small"},
		{[]string{"--zones=16MiB,units=4,open=7"}, exitFailed, "use fewer parallel units"},
		{[]string{"--zones=16MiB,units=4", "--zone-units=65"}, exitFailed, "it must be 1 to 64"},
		{[]string{"--zones=16MiB,unit=5000"}, exitFailed, "unit"},
		{[]string{"--no-cache", "--zones=16MiB,conv=3,unit=16KiB"}, exitFailed, "metadata needs 1; name a small device"},
		{[]string{"--cache=zone:16MiB:malloc:1GiB", "--base=malloc:4GiB"}, exitFailed, "conventional one"},
		{[]string{"--zones=5000"}, exitFailed, "size of a zone"},
		{[]string{"--no-cache", "--base=zone:64MiB,units=4,conv=1:null:1GiB"}, exitFailed, "12 are needed"},
		{[]string{"--no-cache", "--base=zone:16MiB,conv=1:file:/nowhere/x,size=1GiB"}, exitFailed, "write zone:16MiB,conv=1,persist:file:/nowhere/x,size=1GiB"},
		{[]string{"--no-cache", "--base=file:/nowhere/x"}, exitFailed, "give size="},
		{[]string{"--no-cache", "--base=malloc:1GiB,bs=512"}, exitFailed, "blocks of 512 bytes"},
	} {
		out, code := command(append([]string{"plan"}, k.args...)...)
		require.Equal(t, k.code, code, "%v: %s", k.args, out)
		require.Contains(t, out, k.says, k.args)
	}
}

// TestConf: what a directory remembers is taken where flags are silent, and contradictions are refused.
func TestConf(t *testing.T) {
	dir := t.TempDir()
	conf := filepath.Join(dir, stack.ConfFile)
	write := func(text string) { require.NoError(t, os.WriteFile(conf, []byte(text), 0o600)) }
	plan := func(args ...string) (string, int) { return command(append([]string{"plan", "--dir", dir}, args...)...) }

	write("# made by hand\nno-cache = true\nzones = 16MiB,units=2,conv=4\nsize=1GiB\n\nlimit-relocate = 8\nzone-append = true\n")
	out, code := plan()
	require.Zero(t, code, out)
	for _, words := range []string{"usable capacity       1 GiB", "cache                 none", "each of 2 units", "limit-relocate        8 %", "by append"} {
		require.Contains(t, out, words)
	}
	out, code = plan("--limit-relocate=9", "--zone-append=false", "--no-cache", "--size=2GiB")
	require.Zero(t, code, out)
	for _, words := range []string{"usable capacity       2 GiB", "limit-relocate        9 %", "at their write pointers"} {
		require.Contains(t, out, words)
	}
	for _, args := range [][]string{{"--zones=32MiB"}, {"--no-cache=false"}, {"--metadata=malloc:64MiB"}, {"--cache=malloc:64MiB"}, {"--base=malloc:4GiB"}} {
		out, code = plan(args...)
		require.Equal(t, exitUsage, code, "%v: %s", args, out)
		require.Contains(t, out, "was made with", args)
		require.Contains(t, out, conf, args)
	}
	// All devices named: what is remembered of them does not count.
	out, code = plan("--cache=malloc:256MiB", "--base=malloc:4GiB")
	require.Zero(t, code, out)
	require.Contains(t, out, "chunks of")
	require.NotContains(t, out, "units")
	write("no-cache = true\nbase = file:b.img,size=2GiB\n")
	out, code = plan("--base=file:" + dir + "/b.img,size=2GiB")
	require.Zero(t, code, out)
	require.Contains(t, out, "cache                 none")

	for text, says := range map[string]string{
		"no-cache\n": "line 1", "# x\nverbose = true\n": "line 2", "limit-relocate = many\n": "limit-relocate", "base = disk:x\n": "unknown kind",
	} {
		write(text)
		out, code = plan()
		require.NotZero(t, code, out)
		require.Contains(t, out, says)
		require.Contains(t, out, conf)
	}
}

// TestPathsInConf: paths inside the directory are kept relative to it.
func TestPathsInConf(t *testing.T) {
	dir := t.TempDir()
	for path, want := range map[string]string{
		filepath.Join(dir, "base.img"): "base.img", filepath.Join(dir, "a", "b"): "a/b", "/dev/sdb": "/dev/sdb", filepath.Dir(dir): filepath.Dir(dir),
	} {
		require.Equal(t, want, outOfDir(dir, path))
		require.Equal(t, path, inDir(dir, want))
	}
	text, err := mapPath("zone:1MiB,persist:file:/a/b,size=1GiB", func(p string) string { return "/x" + p })
	require.NoError(t, err)
	require.Equal(t, "zone:1MiB,persist:file:/x/a/b,size=1GiB", text)
	text, err = mapPath("malloc:1GiB", func(string) string { panic("no path") })
	require.NoError(t, err)
	require.Equal(t, "malloc:1GiB", text)
}

// TestAFailedCreationLeavesNothing: neither files nor the directory that it made, and what was there before stays.
func TestAFailedCreationLeavesNothing(t *testing.T) {
	for name, k := range map[string]struct {
		base  string
		cache bool
	}{
		"device": {"errinj:fail=EIO,op=write,after=1:file:%s,size=1GiB", true},
		"flush":  {"errinj:fail=EIO,op=flush:file:%s,size=1GiB", true},
		"zones":  {"zone:16MiB,units=2,conv=4,persist:errinj:fail=EIO,op=write:file:%s,size=1GiB", false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "ftl")
			args := []string{
				"serve", "--dir", dir, "--shm=off", "--base=" + fmt.Sprintf(k.base, filepath.Join(dir, "base.img")),
				"--socket=" + filepath.Join(dir, "no", "such"), // it ends if the device is made after all
			}
			if !k.cache {
				args = append(args, "--no-cache")
			}
			out, code := command(args...)
			require.Equal(t, exitFailed, code, out)
			require.Contains(t, out, "input/output error")
			require.NoDirExists(t, dir, out)

			if !k.cache {
				return
			}
			// The other device was there.
			require.NoError(t, os.Mkdir(dir, 0o700))
			cache := filepath.Join(dir, "cache.img")
			require.NoError(t, os.WriteFile(cache, nil, 0o600))
			require.NoError(t, os.Truncate(cache, 128<<20))
			out, code = command(args...)
			require.Equal(t, exitFailed, code, out)
			left, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Len(t, left, 1, out)
			require.Equal(t, "cache.img", left[0].Name())
		})
	}
}
