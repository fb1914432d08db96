//go:build mutants

package mutants

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const root = "../../.."

// seedsMost is the number of seeds in which a defect must be found.
func seedsMost() int {
	if n, err := strconv.Atoi(os.Getenv("SEEDS")); err == nil {
		return n
	}
	return 5000
}

func TestMutants(t *testing.T) {
	base, err := filepath.Abs(root)
	require.NoError(t, err)
	for i, m := range table {
		t.Run(fmt.Sprintf("%02d rule %s: %s", i+1, m.rule, m.name), func(t *testing.T) {
			t.Parallel()
			bin := build(t, base, m)
			seed, how := hunt(t, bin, m.test)
			if seed == 0 {
				t.Errorf("not found in %d seeds", seedsMost())
				return
			}
			t.Logf("found by seed %d: %s", seed, how)
		})
	}
}

// build compiles the simulator over the mutated sources.
func build(t *testing.T, base string, m mutant) string {
	t.Helper()
	path := filepath.Join(base, m.file)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(text), m.old), "%s: the place to change does not occur exactly once; the table is out of date", m.file)
	dir := t.TempDir()
	changed := filepath.Join(dir, "changed.go")
	require.NoError(t, os.WriteFile(changed, []byte(strings.Replace(string(text), m.old, m.new, 1)), 0o600))
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {path: changed}})
	require.NoError(t, err)
	file := filepath.Join(dir, "overlay.json")
	require.NoError(t, os.WriteFile(file, overlay, 0o600))
	bin := filepath.Join(dir, "ftlsim.test")
	cmd := exec.Command("go", "test", "-vet=off", "-c", "-overlay", file, "-o", bin, "./tests/sim/ftlsim")
	cmd.Dir = base
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return bin
}

var found = regexp.MustCompile(`(?s)seed (\d+): (.{0,160})`)

// hunt runs seeds until one fails; 0 means that none did.
func hunt(t *testing.T, bin, test string) (seed int, how string) {
	t.Helper()
	const batch = 50
	for at := 1; at <= seedsMost(); at += batch {
		cmd := exec.Command(bin, "-test.run=^"+test+"$", "-test.timeout=20m", fmt.Sprintf("-seed=%d", at), fmt.Sprintf("-seeds=%d", batch), "-failures=1")
		cmd.Env = append(os.Environ(), "GOFTL_SIM_CHILD="+filepath.Join(t.TempDir(), "counters"))
		cmd.Dir = filepath.Dir(bin)
		out, err := cmd.CombinedOutput()
		if err == nil {
			continue
		}
		f := found.FindStringSubmatch(string(out))
		if f == nil {
			return at, "the process died: " + string(out[:min(len(out), 300)])
		}
		n, _ := strconv.Atoi(f[1])
		return n, strings.ReplaceAll(f[2], "\n", " ")
	}
	return 0, ""
}
