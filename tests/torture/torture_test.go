//go:build e2e

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const root = "../.."

// build makes a folder with ftlnbd, of the sources or with one place of a file replaced.
func build(t *testing.T, file, old, with string) string {
	t.Helper()
	base, err := filepath.Abs(root)
	require.NoError(t, err)
	dir := t.TempDir()
	args := []string{"build", "-o", filepath.Join(dir, "ftlnbd")}
	if file != "" {
		path := filepath.Join(base, file)
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, 1, strings.Count(string(text), old), "%s: the place to change does not occur exactly once", file)
		changed := filepath.Join(dir, "changed.go")
		require.NoError(t, os.WriteFile(changed, []byte(strings.Replace(string(text), old, with, 1)), 0o600))
		overlay, err := json.Marshal(map[string]map[string]string{"Replace": {path: changed}})
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600))
		args = append(args, "-overlay", filepath.Join(dir, "overlay.json"))
	}
	cmd := exec.Command("go", append(args, "./apps/ftlnbd")...)
	cmd.Dir = base
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return dir
}

// torture runs campaigns; how far they get does not depend on the time that they take.
func torture(t *testing.T, o options, wantCode int) (*run, string) {
	t.Helper()
	var out bytes.Buffer
	o.out, o.lanes, o.verbose = &out, 2, true
	r, code := o.main(t.Context())
	t.Log(out.String())
	require.Equal(t, wantCode, code)
	return r, out.String()
}

// TestTorture is the short form of make torture: a device in each world, and one more. Nothing may be found.
func TestTorture(t *testing.T) {
	r, _ := torture(t, options{bin: build(t, "", "", ""), campaigns: len(worlds), lives: 5, seed: 100}, 0)
	require.Empty(t, r.findings)
	if why, skipped := r.skipped["full"]; skipped && os.Getenv("GOFTL_E2E_STRICT") != "" {
		t.Fatal(why)
	}
	least := uint64(len(worlds) - len(r.skipped))
	require.Equal(t, least, r.stats.campaigns.Load())
	require.Equal(t, 5*least, r.stats.lives.Load())
	require.Equal(t, 7*least, r.stats.starts.Load(), "every life began with a start that was verified, and two more at the end")
	require.GreaterOrEqual(t, r.stats.verified.Load(), 7*least*(32<<20/blockSize))
}

// broken are programs and devices that lose data, each in a way that a kill of the process shows only when the device
// drops what was not flushed.
var broken = []struct {
	name            string
	lie             bool
	file, old, with string
}{
	{name: "the devices ignore flushes", lie: true},
	{
		name: "a user's flush does not flush the cache device", file: "ftl/flush.go",
		old:  "\tf.io.call(flushDone, d)\n",
		with: "\tf.io.owner = d\n\tflushDone(&f.io, nil)\n",
	},
	{
		name: "FUA does nothing", file: "ftl/write.go",
		old:  "\t\tif q.FUA && q.Err == nil {\n",
		with: "\t\tif false {\n",
	},
}

// TestLossIsFound has the torture find what loses data.
func TestLossIsFound(t *testing.T) {
	for _, b := range broken {
		t.Run(b.name, func(t *testing.T) {
			r, out := torture(t, options{bin: build(t, b.file, b.old, b.with), campaigns: 100, world: "power", seed: 1, lie: b.lie}, 1)
			require.NotEmpty(t, r.findings)
			kinds := []string{"lost", "damage", "no start"}
			f := r.findings[0]
			require.True(t, slices.Contains(kinds, f.what), f.Error())
			require.Contains(t, out, "again: make torture SEED=")
			what, _, _ := strings.Cut(f.Error(), "\n")
			t.Logf("found after %d lives, %d kills, %v: %.300s", r.stats.lives.Load(), r.stats.allKills(),
				time.Since(r.began).Round(time.Millisecond), what)
		})
	}
}

// TestRunThatCannotBeMade has no program to run.
func TestRunThatCannotBeMade(t *testing.T) {
	var out bytes.Buffer
	o := options{bin: t.TempDir(), out: &out}
	_, code := o.main(t.Context())
	require.Equal(t, 2, code)
	require.Contains(t, out.String(), "make build")
}
