package ftl

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"goftl/bdev/null"
	"goftl/iobuf"
)

// BenchmarkRandWrite is 4 KiB random writes at queue depth 128 through a
// malloc cache of 5 GiB and a null base, on one thread that also makes the
// load. WAF and p99 are ftlperf's business; here it is the cost of a block.
func BenchmarkRandWrite(b *testing.B) {
	for _, base := range []uint64{20, 400} {
		for _, m := range mdSizes {
			b.Run(fmt.Sprintf("base=%dGiB/md=%d", base, m), func(b *testing.B) { benchRandWrite(b, base, m) })
		}
	}
}

// benchCacheMiB keeps the benchmark within the memory of a small machine.
const benchCacheMiB = 1 << 10

func benchRandWrite(b *testing.B, baseGiB uint64, mdSize uint32) {
	r := newRig(b, 1, 1, 0)
	r.malloc("c", benchCacheMiB, mdSize)
	n := null.New(null.Options{Name: "b", Blocks: baseGiB << 18})
	_, err := r.mgr.Register(n)
	require.NoError(b, err)
	r.cfg.Cache, r.cfg.Base, r.cfg.Create, r.cfg.NoVerify = "c", "b", true, true
	require.NoError(b, r.start(r.cfg))
	const depth = 128
	reqs := make([]Request, depth)
	left, under := 0, 0
	x := uint64(88172645463325252)
	blocks := r.d.Blocks()
	submit := func(q *Request) {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		q.LBA = x % blocks
		under++
		left--
		r.d.Submit(q)
	}
	buf := iobuf.Alloc(depth * 4096)
	for i := range reqs {
		q := &reqs[i]
		q.Op, q.Count = OpWrite, 1
		q.Bufs = [][]byte{buf[i*4096 : (i+1)*4096]}
		q.Done = func(q *Request) {
			if q.Err != nil {
				b.Fatal(q.Err)
			}
			under--
			if left > 0 {
				submit(q)
			}
		}
	}
	go_ := func(n int) {
		left = n
		for i := range reqs {
			if left > 0 {
				submit(&reqs[i])
			}
		}
		for under > 0 {
			r.now = time.Now().UnixNano()
			r.th.Poll(64, r.now)
		}
	}
	go_(200_000)
	b.ReportAllocs()
	b.ResetTimer()
	go_(b.N)
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "MIOPS")
	var s Stats
	r.d.Stats(&s)
	b.ReportMetric(s.WAF(), "WAF")
	b.ReportMetric(float64(s.Checkpoints), "ckpts")
	r.stop(true)
	iobuf.Free(buf)
}
