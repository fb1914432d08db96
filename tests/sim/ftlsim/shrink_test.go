package ftlsim

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"goftl/tests/sim"
)

var (
	flagShrink = flag.Bool("shrink", false, "make the failing case smaller; use with -seed or -plan")
	flagPlan   = flag.String("plan", "", "play this plan, as a report of a failure prints it, or @file")
	flagTries  = flag.Int("tries", 3000, "plans that -shrink may play")
)

// givenPlan is the plan of the command line, or nil.
func givenPlan(t *testing.T) *Plan {
	t.Helper()
	text := *flagPlan
	if text == "" {
		return nil
	}
	if file, ok := strings.CutPrefix(text, "@"); ok {
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		text = string(b)
	}
	p, err := ParsePlan(text)
	require.NoError(t, err)
	return p
}

// Plans are tried in processes of their own: what fails may take its process with it, and killed ones leave memory
// behind.
const (
	plansEnv   = "GOFTL_SIM_PLANS"   // plans to try, one a line
	signEnv    = "GOFTL_SIM_SIGN"    // up to the first that ends like this
	resultsEnv = "GOFTL_SIM_RESULTS" // how each ended, one a line
)

// tryPlans is such a process.
func tryPlans(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	out, err := os.Create(os.Getenv(resultsEnv))
	require.NoError(t, err)
	defer out.Close()
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		plan, err := ParsePlan(line)
		require.NoError(t, err)
		shm := sim.ShmDir(t)
		sign := Sign(safely(func() error {
			c := sim.NewCase(plan.Seed, nil)
			c.Alone = true
			return NewPlay(c, FTL{}, plan, shm).Run()
		}))
		require.NoError(t, os.RemoveAll(shm))
		require.NoError(t, os.MkdirAll(shm, 0o700))
		fmt.Fprintln(out, sign)
		if sign == os.Getenv(signEnv) && sign != "" {
			return
		}
	}
}

// inChildren is a Shrinker.Try that plays plans in children of this process.
func inChildren(t *testing.T) func(plans []*Plan, sign string) int {
	dir := t.TempDir()
	plansFile, results := filepath.Join(dir, "plans"), filepath.Join(dir, "results")
	return func(plans []*Plan, sign string) int {
		for at := 0; at < len(plans); {
			var lines bytes.Buffer
			for _, p := range plans[at:] {
				text, err := json.Marshal(p)
				require.NoError(t, err)
				lines.Write(append(text, '\n'))
			}
			require.NoError(t, os.WriteFile(plansFile, lines.Bytes(), 0o600))
			cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.timeout=10m")
			cmd.Env = append(os.Environ(), plansEnv+"="+plansFile, signEnv+"="+sign, resultsEnv+"="+results)
			out, err := cmd.CombinedOutput()
			text, rerr := os.ReadFile(results)
			require.NoError(t, rerr, "%s", out)
			signs := strings.SplitAfter(string(text), "\n")
			signs = signs[:len(signs)-1]
			if err != nil { // it died while it played one more
				signs = append(signs, diedSign(out)+"\n")
			}
			for i, s := range signs {
				if strings.TrimSuffix(s, "\n") == sign {
					return at + i
				}
			}
			require.NotEmpty(t, signs, "%s", out)
			at += len(signs)
		}
		return -1
	}
}

// diedSign is the sign of a process that died.
func diedSign(out []byte) string {
	for _, line := range strings.Split(string(out), "\n") {
		for _, p := range []string{"panic: ", "fatal error: ", "unexpected fault address"} {
			if strings.HasPrefix(line, p) {
				return "died: " + p
			}
		}
	}
	return "died"
}

// signOf plays a plan in a child and returns how it ends; "" when it passes.
func signOf(t *testing.T, p *Plan) string {
	t.Helper()
	dir := t.TempDir()
	plan, results := filepath.Join(dir, "plan"), filepath.Join(dir, "result")
	text, err := json.Marshal(p)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(plan, text, 0o600))
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.timeout=10m")
	cmd.Env = append(os.Environ(), plansEnv+"="+plan, resultsEnv+"="+results)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return diedSign(out)
	}
	sign, err := os.ReadFile(results)
	require.NoError(t, err, "%s", out)
	return strings.TrimSuffix(string(sign), "\n")
}

// shrink makes a failing plan smaller and reports what is left of it.
func shrink(t *testing.T, p *Plan) {
	t.Helper()
	sign := signOf(t, p)
	if sign == "" {
		t.Fatalf("seed %d passes: there is nothing to shrink", p.Seed)
	}
	t.Logf("fails with %q: %d lives, %d operations", sign, len(p.Lives), p.Ops())
	s := &Shrinker{Try: inChildren(t), Most: *flagTries, Log: t.Logf}
	small := s.Shrink(p, sign)
	t.Logf("%d plans played; %d lives, %d operations are left", s.played, len(small.Lives), small.Ops())
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-plan", small.String(), "-simtrace")
	out, _ := cmd.CombinedOutput() // it fails, of course
	t.Errorf("the small case:\n%s\nreplay: %s", out, replayOf(t, small))
}

// replayOf is the command that plays a plan and shows its trace.
func replayOf(t *testing.T, p *Plan) string {
	return fmt.Sprintf("go test ./tests/sim/ftlsim -run '^%s$' -simtrace -plan '%s'", t.Name(), p)
}

// safely turns a panic into an error.
func safely(fn func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return fn()
}

// TestShrink: a failure of a device with a planted bug is found again in a plan that a person can read, and that fails
// when it was printed and read.
func TestShrink(t *testing.T) {
	for _, bug := range []toyBug{toyAckEarly, toyTrimForgets, toyFUANoFlush} {
		t.Run(fmt.Sprint(bug), func(t *testing.T) {
			t.Parallel()
			run := func(p *Plan) error {
				return safely(func() error { return NewPlay(sim.NewCase(p.Seed, nil), toy{bug}, p, "").Run() })
			}
			plan, sign := failing(t, run)
			s := &Shrinker{Most: 600, Log: func(string, ...any) {}, Try: func(plans []*Plan, sign string) int {
				for i, p := range plans {
					if Sign(run(p)) == sign {
						return i
					}
				}
				return -1
			}}
			small := s.Shrink(plan, sign)
			t.Logf("bug %d: %q: %d lives and %d operations, were %d and %d; %d plans: %v", bug, sign,
				len(small.Lives), small.Ops(), len(plan.Lives), plan.Ops(), s.played, small)
			require.LessOrEqual(t, len(small.Lives), 3)
			require.LessOrEqual(t, small.Ops(), 10)
			require.Greater(t, plan.Ops(), 100)
			again, err := ParsePlan(small.String())
			require.NoError(t, err)
			require.Equal(t, sign, Sign(run(again)))
		})
	}
}

// failing returns a plan of the toy that fails.
func failing(t *testing.T, run func(p *Plan) error) (*Plan, string) {
	t.Helper()
	for seed := uint64(1); seed <= 400; seed++ {
		p := toyPlan(seed)
		if err := run(p); err != nil {
			return p, Sign(err)
		}
	}
	require.Fail(t, "no seed fails")
	return nil, ""
}
