package ftl

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/errinj"
	"goftl/ftl/layout"
)

// TestGolden runs the traces in testdata: what steps a start or a stop takes;
// -rewrite writes them anew.
//
//	devices [md=64] [volatile]
//	create [force] | load [readonly] [accept]
//	stop [fast] | kill
//	write lba count | trim lba count | flush | settle
//	fail dev=cache op=write [region=sb] [nth=1] [err=enospc] | heal
//	rot region=l2p_dir0_a block=0
//	show
func TestGolden(t *testing.T) {
	datadriven.Walk(t, "testdata/golden", func(t *testing.T, path string) {
		g := &goldenBed{}
		datadriven.RunTest(t, path, func(t *testing.T, td *datadriven.TestData) string { return g.run(t, td) })
	})
}

type goldenBed struct {
	b   *bed
	lay *layout.Layout
	out strings.Builder
}

func (g *goldenBed) printf(format string, args ...any) { fmt.Fprintf(&g.out, format+"\n", args...) }

func (g *goldenBed) run(t *testing.T, td *datadriven.TestData) string {
	g.out.Reset()
	num := func(key string) (n uint64) {
		td.ScanArgs(t, key, &n)
		return n
	}
	switch td.Cmd {
	case "devices":
		geo := mini
		if td.HasArg("md") {
			geo.md = uint32(num("md"))
		}
		geo.volatile = td.HasArg("volatile")
		g.b = newBed(t, geo)
		g.b.root = t
	case "create", "load":
		g.start(td)
	case "stop":
		g.stop(td.HasArg("fast"))
	case "kill":
		g.stop(true)
		g.out.Reset()
	case "write", "trim":
		op := OpWrite
		if td.Cmd == "trim" {
			op = OpTrim
		}
		g.printf("%v", g.b.do(op, num("lba"), num("count")))
	case "flush":
		g.printf("%v", g.b.do(OpFlush, 0, 0))
	case "settle":
		g.b.settleAll()
	case "fail":
		g.fail(t, td)
	case "heal":
		g.b.heal()
	case "rot":
		r := g.region(t, td)
		g.b.rot(int(r.Dev), r.Offset+num("block"))
	case "show":
		g.show()
	default:
		t.Fatalf("unknown command %s", td.Cmd)
	}
	return g.out.String()
}

func (g *goldenBed) start(td *datadriven.TestData) {
	cfg := g.b.cfg
	cfg.Create, cfg.Force = td.Cmd == "create", td.HasArg("force")
	cfg.ReadOnly, cfg.AcceptLoss = td.HasArg("readonly"), td.HasArg("accept")
	cfg.Logger = slog.New(stepWatch{g})
	err := g.b.rig.start(cfg)
	switch {
	case err != nil:
		g.b.noChannels()
	case cfg.Create:
		g.b.blank()
		fallthrough
	default:
		g.lay = g.b.d.Layout()
	}
	g.printf("%v", err)
}

func (g *goldenBed) stop(fast bool) { g.printf("%v", g.b.halted(fast)) }

// stepWatch is a log handler that keeps what the step engine says.
type stepWatch struct{ g *goldenBed }

func (w stepWatch) Enabled(context.Context, slog.Level) bool { return true }
func (w stepWatch) WithAttrs([]slog.Attr) slog.Handler       { return w }
func (w stepWatch) WithGroup(string) slog.Handler            { return w }

func (w stepWatch) Handle(_ context.Context, r slog.Record) error {
	status, ok := strings.CutPrefix(r.Message, "step ")
	if !ok {
		if r.Level >= slog.LevelWarn {
			w.g.printf("! %s", r.Message)
		}
		return nil
	}
	a := map[string]string{}
	r.Attrs(func(x slog.Attr) bool {
		a[x.Key] = x.Value.String()
		return true
	})
	undo := ""
	if a["phase"] == "cleanup" {
		undo = "undo "
	}
	line := fmt.Sprintf("%s: %s%s: %s", a["process"], undo, a["step"], status)
	if a["err"] != "" {
		line += " (" + a["err"] + ")"
	}
	w.g.printf("%s", line)
	return nil
}

func (g *goldenBed) region(t *testing.T, td *datadriven.TestData) *layout.Region {
	var name string
	td.ScanArgs(t, "region", &name)
	for r := layout.RegionSB; r < layout.NumRegions; r++ {
		if r.String() == name {
			return g.lay.Region(r)
		}
	}
	t.Fatalf("unknown region %s", name)
	return nil
}

func (g *goldenBed) fail(t *testing.T, td *datadriven.TestData) {
	var dev, op string
	td.ScanArgs(t, "dev", &dev)
	td.ScanArgs(t, "op", &op)
	ops := map[string]bdev.OpSet{"read": readOps, "write": writeOps, "flush": flushOps, "zeroes": bdev.Ops(bdev.OpWriteZeroes)}
	r := errinj.Rule{Action: errinj.Fail, Ops: ops[op]}
	require.NotZero(t, r.Ops)
	if td.HasArg("region") {
		reg := g.region(t, td)
		r.From, r.To = reg.Offset, reg.End()
	}
	if td.HasArg("nth") {
		td.ScanArgs(t, "nth", &r.Nth)
	}
	if td.HasArg("err") {
		r.Err = unix.ENOSPC
	}
	g.b.rule(map[string]int{"cache": onCache, "base": onBase}[dev], r)
}

func (g *goldenBed) show() {
	d := g.b.d
	sb := d.Superblock()
	h, err := d.Health()
	g.printf("health %v (%v)", h, err)
	g.printf("superblock seq %d clean %v inc %d k %d dir %d cu %d cm %d state %d", sb.Seq, sb.Clean, sb.Inc, sb.CkptK, sb.DirSlot,
		sb.CU, sb.CM, sb.State)
	r := d.LoadReport()
	g.printf("load: redone %d gaps %d rotten pages %d shm %v", r.Redone, r.Gaps, r.RottenPages, r.FromShm)
	n := map[string]int{}
	for _, s := range d.Segments() {
		n[s.Kind+" "+s.State]++
	}
	for _, kind := range []string{"chunk", "band"} {
		for _, st := range segStateNames {
			if k := kind + " " + st; n[k] > 0 {
				g.printf("%d %s", n[k], k)
			}
		}
	}
}
