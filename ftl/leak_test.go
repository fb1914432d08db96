package ftl

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"goftl/bdev/errinj"
	"goftl/ftl/layout"
)

// mapped is the memory of the process outside of the Go heap, in bytes.
func mapped(t *testing.T) int64 {
	t.Helper()
	runtime.GC()
	b, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	for _, l := range strings.Split(string(b), "\n") {
		if f := strings.Fields(l); len(f) == 3 && f[0] == "VmSize:" {
			n, err := strconv.ParseInt(f[1], 10, 64)
			require.NoError(t, err)
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return n<<10 - int64(m.Sys)
		}
	}
	t.Skip("/proc/self/status has no VmSize")
	return 0
}

// TestNothingLeaks: starts that fail at different steps, stops of every kind
// and crashes give all their memory back. It lies outside of the Go heap, so
// nobody else would.
func TestNothingLeaks(t *testing.T) {
	b := written(t, volatile(mini), false)
	b.cfg.ShmDir = t.TempDir()
	cycle := func() {
		for _, r := range []layout.RegionType{layout.RegionSB, layout.RegionChunkMD, layout.RegionL2PDir0A, layout.RegionL2PDir1B, layout.RegionL2PSlot0} {
			tw := b.image()
			reg := b.region(r)
			tw.rule(onCache, errinj.Rule{Action: errinj.Fail, From: reg.Offset, To: reg.End() + reg.Blocks})
			if tw.start(tw.cfg) == nil {
				_ = tw.halted(true)
			}
		}
		for _, fast := range []bool{true, false} {
			tw := b.crash()
			tw.churn(60, 8, 8)
			tw.verify(true)
			tw.stop(fast)
		}
	}
	for range 3 {
		cycle()
	}
	before := mapped(t)
	const cycles = 15
	for range cycles {
		cycle()
	}
	grown := mapped(t) - before
	t.Logf("%d KiB more after %d starts", grown>>10, cycles*7)
	require.Less(t, grown, int64(cycles*7*4096), "less than a block for each start")
}
