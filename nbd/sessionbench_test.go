package nbd

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"goftl/bdev"
	"goftl/bdev/null"
	"goftl/nbd/proto"
	"goftl/thread"
)

// BenchmarkSession is what the protocol costs without sockets and without a
// device: parsing, one copy of the data of writes, the bdev layer, replies. One
// op is one request of 4 KiB; depth is how many come in one read.
func BenchmarkSession(b *testing.B) {
	for _, cmd := range []proto.Command{proto.CmdWrite, proto.CmdRead} {
		for _, depth := range []int{1, 32, 128} {
			b.Run(fmt.Sprintf("%v/qd=%d", cmd, depth), func(b *testing.B) { benchSession(b, cmd, depth) })
		}
	}
}

func benchSession(b *testing.B, cmd proto.Command, depth int) {
	r := &rig{t: b, sys: thread.NewSystem()}
	r.th = r.sys.NewThread("core")
	r.m = bdev.NewManager(r.sys, nil)
	_, err := r.m.Register(null.New(null.Options{Name: "null", Blocks: 1 << 20}))
	require.NoError(b, err)
	r.desc, err = r.m.Open("null", true, nil, nil, r.th)
	require.NoError(b, err)
	r.cat, err = NewCatalog("", Export{Name: "null", Desc: r.desc, Thread: r.th})
	require.NoError(b, err)
	r.host, err = NewHost(r.th, Limits{})
	require.NoError(b, err)
	w := r.connect(false)
	var batch []byte
	for i := range depth {
		var data []byte
		if cmd == proto.CmdWrite {
			data = make([]byte, 4096)
		}
		batch = append(batch, encode(cmd, 0, uint64(i), uint64(i)*4096, 4096, data)...)
	}
	sent := &sink{}
	w.s.tr = sent
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; n += depth {
		w.s.Feed(batch)
		r.poll()
		w.s.Unkick()
		for out := w.s.Output(); len(out) > 0; out = w.s.Output() {
			total := 0
			for i := range out {
				total += int(out[i].Len)
			}
			w.s.Sent(total)
		}
		w.s.Resume()
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "MIOPS")
}

// sink is a transport that is looked at without being asked.
type sink struct{}

// Kick implements Transport.
func (*sink) Kick() {}
