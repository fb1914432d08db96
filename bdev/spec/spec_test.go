package spec_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/bdev/spec"
	"goftl/thread"
)

func newManager() (*bdev.Manager, *thread.Thread) {
	sys := thread.NewSystem()
	return bdev.NewManager(sys, nil), sys.NewThread("main")
}

func TestSizes(t *testing.T) {
	good := map[string]uint64{
		"0": 0, "4096": 4096, "64KiB": 64 << 10, "5GiB": 5 << 30, "5g": 5 << 30, "1.5T": 3 << 39, "10MB": 10e6,
		"0.5KiB": 512, " 7 ": 7, "1 GiB": 1 << 30, "2b": 2,
	}
	for text, want := range good {
		if n, err := spec.ParseSize(text); err != nil || n != want {
			t.Errorf("%q: %d, %v", text, n, err)
		}
	}
	for _, text := range []string{"", "GiB", "5Gi", "-1", "1e9", "0.3KiB", "9EiB", "8192PiB", "99999999999999999999", "1..5K", "1_000"} {
		if n, err := spec.ParseSize(text); err == nil {
			t.Errorf("%q was taken as %d", text, n)
		} else if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ERANGE) {
			t.Errorf("%q: %v", text, err)
		}
	}
	for n, want := range map[uint64]string{0: "0", 1: "1", 1024: "1KiB", 1536: "1536", 5 << 30: "5GiB"} {
		if got := spec.FormatSize(n); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
}

func TestGoodSpecs(t *testing.T) {
	dir := t.TempDir()
	cases := []struct {
		text, name string
		blocks     uint64
	}{
		{"malloc:64MiB", "malloc0", 16384},
		{"malloc:64MiB,md=64,bs=512,name=cache", "cache", 131072},
		{"malloc:3MiB,md=8,populate=on", "malloc0", 768},
		{"null:400GiB", "null0", 400 << 18},
		{"passthru:null:1GiB", "passthru_null0", 1 << 18},
		{"passthru:name=p:passthru::null:1GiB,name=n", "p", 1 << 18},
		{"file:" + filepath.Join(dir, "a:b") + ",size=1MiB,driver=aio,direct=off", "a:b", 256},
		{"zone:1MiB,units=4,open=8:malloc:64MiB", "zone_malloc0", 16384},
		{"zone:1MiB,cap=512KiB,init=full:malloc:65MiB", "zone_malloc0", 16640},
		{"zone:1MiB,conv=2,unit=64KiB,readonly=3,offline=4+5,fail-reset=2,append=128KiB,unmap=off:malloc:8MiB", "zone_malloc0", 2048},
		{"delay:100us:malloc:1MiB", "delay_malloc0", 256},
		{"delay:read=1ms,write=5us,p99-write=1s,seed=4:malloc:1MiB", "delay_malloc0", 256},
		{"errinj:fail=EIO,op=write,nth=3;delay=1ms,prob=0.5,seed=2,lba=3-9:malloc:1MiB", "errinj_malloc0", 256},
		{"errinj:malloc:1MiB", "errinj_malloc0", 256},
		{"volatile:malloc:1MiB", "volatile_malloc0", 256},
		{"volatile:size=64KiB,early=1,seed=9,die=0.1,lie,name=v:malloc:1MiB,md=8", "v", 256},
		{"zone:256KiB:volatile:passthru:malloc:1MiB", "zone_volatile_passthru_malloc0", 256},
		{"errinj:name=e:malloc:1MiB", "e", 256},
	}
	for _, c := range cases {
		m, th := newManager()
		b, err := spec.Create(m, th, c.text, spec.Options{Create: true})
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if b.Name() != c.name || b.Info().Blocks != c.blocks {
			t.Errorf("%s: %s with %d blocks", c.text, b.Name(), b.Info().Blocks)
		}
		remove(t, m, th, b, c.text)
	}
}

// remove unregisters a device; those behind it go with it.
func remove(t *testing.T, m *bdev.Manager, th *thread.Thread, b *bdev.Bdev, text string) {
	t.Helper()
	ended := false
	b.Unregister(th, func(_ any, err error) {
		if err != nil {
			t.Error(err)
		}
		ended = true
	}, nil)
	for i := int64(1); i < 100; i++ {
		th.Poll(0, i*1e6)
	}
	if !ended || len(m.All()) != 0 {
		t.Errorf("%s: not ended, %d devices left", text, len(m.All()))
	}
}

func TestBadSpecsSayWhatWouldDo(t *testing.T) {
	cases := []struct{ text, says string }{
		{"", "there are malloc"},
		{"mallloc:5GiB", "unknown kind"},
		{"malloc", "malloc:5GiB"},
		{"malloc:", "missing"},
		{"malloc:5Gi", "64MiB"},
		{"malloc:0", "positive"},
		{"malloc:4097", "multiple of 4096"},
		{"malloc:1MiB,md=x", "md is"},
		{"malloc:1MiB,md=-1", "md is"},
		{"malloc:1MiB,bs=1000", "power of two"},
		{"malloc:1MiB,bs=3000", "power of two"},
		{"malloc:1MiB,foo=1", "unknown option"},
		{"malloc:1MiB,md=1,md=2", "twice"},
		{"malloc:7000PiB", "memory"},
		{"malloc:1MiB,populate=7", "on or off"},
		{"malloc:32TiB,populate=on", "available"},
		{"null:1MiB:malloc:1MiB", "positive size"},
		{"passthru:", "missing"},
		{"passthru:foo:1", "unknown"},
		{"file:/does/not/exist", "no such file"},
		{"file:/tmp,driver=scsi", "uring or aio"},
		{"file:/tmp", "directory"},
		{"zone:malloc:64MiB", "size"},
		{"zbd:", "missing"},
		{"zbd:/does/not/exist", "no such file"},
		{"zbd:/dev/null", "no block device"},
		{"zbd:/tmp", "no block device"},
		{"zbd:/tmp,driver=nvme", "uring or aio"},
		{"zbd:/tmp,units=0", "units"},
		{"zbd:/tmp,size=1GiB", "unknown option"},
		{"zone:1MiB:malloc:100KiB", "zone"},
		{"zone:1000:malloc:1MiB", "multiple"},
		{"zone:1MiB,units=0:malloc:4MiB", "units"},
		{"zone:1MiB,cap=2MiB:malloc:4MiB", "cap"},
		{"zone:1MiB,conv=5:malloc:4MiB", "conventional zones"},
		{"zone:1MiB,unit=100:malloc:4MiB", "multiple of 4096"},
		{"zone:1MiB,unit=12KiB:malloc:4MiB", "multiple of 3"},
		{"zone:1MiB,unit=64KiB,append=4KiB:malloc:4MiB", "append"},
		{"zone:1MiB,offline=4:malloc:4MiB", "from 0 to 3"},
		{"zone:1MiB,readonly=1+x:malloc:4MiB", "3+7"},
		{"zone:1MiB,fail-reset=-1:malloc:4MiB", "fail-reset is"},
		{"zone:1MiB,unmap=maybe:malloc:4MiB", "auto, on or off"},
		{"delay:5:malloc:1MiB", "100us"},
		{"delay:-5ms:malloc:1MiB", "time"},
		{"errinj:fail=EFOO:malloc:1MiB", "EIO"},
		{"errinj:prob=2,fail=EIO:malloc:1MiB", "probability"},
		{"errinj:op=write:malloc:1MiB", "one of"},
		{"errinj:fail=EIO,drop:malloc:1MiB", "one of"},
		{"errinj:fail=EIO,op=writ:malloc:1MiB", "write"},
		{"errinj:fail=EIO,lba=9-3:malloc:1MiB", "lba"},
		{"volatile:", "missing"},
		{"volatile:size=60KiB:malloc:1MiB", "at least 16"},
		{"volatile:size=5000:malloc:1MiB", "multiple"},
		{"volatile:size=8PiB:malloc:1MiB", "1 TiB"},
		{"volatile:early=2:malloc:1MiB", "probability"},
		{"volatile:die=-1:malloc:1MiB", "probability"},
		{"volatile:lie=perhaps:malloc:1MiB", "on or off"},
		{strings.Repeat("passthru:", 40) + "null:1MiB", "more than 16"},
		{"malloc:1MiB,name=" + strings.Repeat("x", 20000), "longest"},
	}
	for _, c := range cases {
		m, th := newManager()
		_, err := spec.Create(m, th, c.text, spec.Options{})
		if err == nil {
			t.Errorf("%s: taken", c.text)
			continue
		}
		if !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, without %q", c.text, err, c.says)
		}
		var errno unix.Errno
		if !errors.As(err, &errno) {
			t.Errorf("%s: %v wraps no errno", c.text, err)
		}
		if len(m.All()) != 0 {
			t.Errorf("%s: left %d devices behind", c.text, len(m.All()))
		}
	}
}

func FuzzSpec(f *testing.F) {
	for _, s := range []string{
		"malloc:5GiB,md=64", "null:400GiB", `file:/a\,b:c,size=20GiB,driver=uring`, "zone:256MiB,units=4:null:1GiB",
		"errinj:fail=EIO,op=read+write;drop,nth=3:delay:100us:passthru:malloc:1MiB", "delay::malloc:1", "volatile:size=8MiB,early=0.5,lie:file:x", "volatile:null:1", `passthru:name=\::null:1`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := spec.Parse(text)
		if err != nil {
			if !errors.Is(err, unix.EINVAL) {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		written := s.String()
		again, err := spec.Parse(written)
		if err != nil {
			t.Fatalf("%q was written as %q: %v", text, written, err)
		}
		if w := again.String(); w != written {
			t.Fatalf("%q, then %q", written, w)
		}
	})
}

// resident returns how many bytes of anonymous memory the process has.
func resident(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip(err)
	}
	_, rest, ok := strings.Cut(string(text), "RssAnon:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if !ok || err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

func TestPopulateIsWhatTheSpecSaysElseWhatTheProgramWants(t *testing.T) {
	const size = 64 << 20
	for _, c := range []struct {
		text string
		want bool // of the program
		all  bool // memory is taken
	}{
		{"malloc:64MiB", false, false},
		{"malloc:64MiB", true, true},
		{"passthru:malloc:64MiB", true, true},
		{"malloc:64MiB,populate=on", false, true},
		{"malloc:64MiB,populate=off", true, false},
		{"malloc:32TiB", true, false}, // more than there is: as it is used
	} {
		m, th := newManager()
		before := resident(t)
		b, err := spec.Create(m, th, c.text, spec.Options{Populate: c.want})
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if grown := resident(t) - before; (grown > size/2) != c.all {
			t.Errorf("%s, populate %v: took %d MiB", c.text, c.want, grown>>20)
		}
		b.Unregister(th, nil, nil)
		for i := int64(1); i < 100; i++ {
			th.Poll(0, i*1e6)
		}
	}
}
