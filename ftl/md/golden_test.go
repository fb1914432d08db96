package md

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev"
)

// TestGolden runs the traces in testdata; -rewrite writes them anew.
//
//	new [blocks=8] [entry=1] [md=64] [volatile] [nomirror] [nomem] [pool=n]   make devices and an object
//	fill letter [first count]       fill the object's memory
//	persist | restore | clear letter
//	persist-entry|ordered|read-entry first count [again]
//	rot|zero primary|mirror block   damage a copy
//	lose primary|mirror block       what is written there from now on is lost
//	lost                            (and now it is)
//	fail op=write copy=mirror [block=2] [times=1] [err=enomem]
//	crash after=n                   lose power after n more operations
//	reopen [dirty]                  a new object over the same devices
//	show                            memory and copies
func TestGolden(t *testing.T) {
	datadriven.Walk(t, "testdata/golden", func(t *testing.T, path string) {
		g := &golden{}
		datadriven.RunTest(t, path, g.run)
	})
}

type golden struct {
	r   *rig
	o   *Object
	cfg func(c *Config)
	out strings.Builder
	hog *hog

	losing [][2][]byte // blocks and what they held
}

func (g *golden) printf(format string, args ...any) { fmt.Fprintf(&g.out, format+"\n", args...) }

func (g *golden) run(t *testing.T, td *datadriven.TestData) string {
	g.out.Reset()
	arg := func(i int) uint64 {
		n, err := strconv.ParseUint(td.CmdArgs[i].Key, 10, 64)
		require.NoError(t, err)
		return n
	}
	switch td.Cmd {
	case "new":
		g.create(t, td)
	case "reopen":
		g.o.Destroy(false)
		g.r.powerOn()
		g.r.clean = !td.HasArg("dirty")
		g.o = g.r.object(t, g.cfg)
	case "fill":
		first, count := uint64(0), g.o.Blocks()
		if len(td.CmdArgs) > 1 {
			first, count = arg(1), arg(2)
		}
		for i := first; i < first+count; i++ {
			setBlock(g.o, i, td.CmdArgs[0].Key[0])
		}
	case "persist":
		g.op(g.o.Persist)
	case "restore":
		g.op(g.o.Restore)
	case "clear":
		g.op(func(done DoneFunc, a any) { g.o.Clear(td.CmdArgs[0].Key[0], nil, done, a) })
	case "persist-entry":
		g.entry(func(op *EntryOp) { g.o.PersistEntry(op, arg(0), arg(1)) })
	case "ordered":
		g.entry(func(op *EntryOp) { g.o.PersistEntryOrdered(op, arg(0), arg(1)) })
		if td.HasArg("again") {
			g.entry(func(op *EntryOp) { g.o.PersistEntryOrdered(op, arg(0), arg(1)) })
		}
	case "read-entry":
		buf := make([]byte, arg(1)*uint64(g.r.primary.EntryBlocks)*BlockSize)
		g.entry(func(op *EntryOp) { g.o.ReadEntry(op, arg(0), arg(1), buf) })
		g.r.settle()
		g.printf("read %s", letters(uint64(len(buf)/BlockSize), func(i uint64) []byte { return buf[i*BlockSize:] }))
	case "rot", "zero":
		b := g.r.copyOf(copyNumber(td.CmdArgs[0].Key), arg(1))
		if td.Cmd == "zero" {
			clear(b)
		} else {
			b[100] ^= 0x40
		}
	case "lose":
		b := g.r.copyOf(copyNumber(td.CmdArgs[0].Key), arg(1))
		g.losing = append(g.losing, [2][]byte{b, slices.Clone(b)})
	case "lost":
		for _, l := range g.losing {
			copy(l[0], l[1])
		}
		g.losing = nil
	case "fail":
		g.fail(t, td)
	case "crash":
		td.ScanArgs(t, "after", &g.r.countdown)
		g.r.countdown++
	case "show":
		g.show()
	default:
		t.Fatalf("unknown command %s", td.Cmd)
	}
	g.r.settle()
	return g.out.String()
}

func copyNumber(name string) int {
	if name == "mirror" {
		return 1
	}
	return 0
}

func (g *golden) create(t *testing.T, td *datadriven.TestData) {
	o := rigOptions{blocks: 8, entry: 1, volatile: td.HasArg("volatile")}
	td.MaybeScanArgs(t, "blocks", &o.blocks)
	var n int
	if td.MaybeScanArgs(t, "entry", &n) {
		o.entry = uint32(n)
	}
	if td.MaybeScanArgs(t, "md", &n) {
		o.md = uint32(n)
	}
	td.MaybeScanArgs(t, "pool", &o.pool)
	g.r = newRig(t, o)
	g.r.log = func(line string) { g.printf("%s", line) }
	nomirror, nomem := td.HasArg("nomirror"), td.HasArg("nomem")
	g.cfg = func(c *Config) {
		if nomirror {
			c.Mirror = nil
		}
		if nomem {
			c.Flags = FlagNoMem
		}
		c.VSS = o.md
	}
	g.o = g.r.object(t, g.cfg)
	g.hog = nil
	if o.pool > 0 {
		g.hog = &hog{g: g}
	}
}

func (g *golden) fail(t *testing.T, td *datadriven.TestData) {
	f := &fault{any: true, err: unix.EIO}
	var op, which string
	td.ScanArgs(t, "op", &op)
	td.ScanArgs(t, "copy", &which)
	f.op, _ = bdev.ParseOp(op)
	d, region := g.r.cache, &g.r.primary
	if which == "mirror" {
		d, region = g.r.base, &g.r.mirror
	}
	if td.MaybeScanArgs(t, "block", &f.lba) {
		f.any = false
		f.lba += region.Offset
	}
	td.MaybeScanArgs(t, "times", &f.times)
	d.faults = append(d.faults, f)
}

func (g *golden) done(err error) { g.printf("done: %v", err) }

func goldenDone(arg any, err error) { arg.(*golden).done(err) }

func (g *golden) op(start func(DoneFunc, any)) {
	if g.hog != nil {
		g.hog.start()
	}
	start(goldenDone, g)
}

func (g *golden) entry(start func(op *EntryOp)) {
	g.op(func(done DoneFunc, arg any) { start(&EntryOp{Done: done, Arg: arg}) })
}

func (g *golden) show() {
	n := g.r.primary.Blocks
	if b := g.o.Buffer(); b != nil {
		g.printf("memory  %s", letters(n, func(i uint64) []byte { return b[i*BlockSize:] }))
	}
	for which, name := range []string{"primary", "mirror"} {
		g.printf("%-7s %s", name, letters(n, func(i uint64) []byte {
			b := g.r.copyOf(which, i)
			if _, _, ok := checkBlock(b, g.o.seed, i); !ok {
				return make([]byte, BlockSize)
			}
			return b
		}))
	}
}

// hog takes the only IO of each pool before an operation starts and again as
// soon as it can, so that every submission meets an empty pool.
type hog struct {
	g    *golden
	wait [2]bdev.IOWait
}

func (h *hog) start() {
	for i := range h.wait {
		h.take(i)
	}
}

func (h *hog) take(i int) {
	buf := make([]byte, BlockSize)
	err := h.g.r.target[i].Ch.Read(buf, 0, 1, h.release, i)
	require.NoError(panicky{}, err)
}

func (h *hog) release(io *bdev.IO) {
	i := io.Ctx.(int)
	if h.g.o.Idle() {
		return
	}
	h.wait[i].Fn, h.wait[i].Arg = func(any) { h.take(i) }, nil
	h.g.r.target[i].Ch.QueueIOWait(&h.wait[i])
}

type panicky struct{}

func (panicky) Errorf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (panicky) FailNow()                          { panic("stop") }
