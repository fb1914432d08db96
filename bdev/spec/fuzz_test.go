package spec_test

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"goftl/bdev/errinj"
	"goftl/bdev/spec"
)

// FuzzSize: a size is read, or refused; one that was read is written such that it is read back.
func FuzzSize(f *testing.F) {
	for _, s := range []string{"4096", "5GiB", "1.5T", "0.5k", "8EiB", "7.99999PiB", " 1 KB ", "1e9", "0x10", "-1", "1.0000000000000000000000000001", "9223372036854775807"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, err := spec.ParseSize(text)
		if err != nil {
			if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ERANGE) {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		again, err := spec.ParseSize(spec.FormatSize(n))
		if err != nil || again != n || n >= 1<<63 {
			t.Fatalf("%q is %d, written as %q, which is %d (%v)", text, n, spec.FormatSize(n), again, err)
		}
	})
}

// FuzzRules: rules of errinj are read or refused, and a device takes what was read.
func FuzzRules(f *testing.F) {
	for _, s := range []string{
		"fail=EIO,op=read+write,prob=0.01", "drop,nth=3;hang,every=7,after=2,count=1", "delay=1ms,lba=3-9", "corrupt=8,seed=5,off",
		"tear,sectors", "fail=EIO,landed", "fail=5,op=flush", "fail,prob=NaN", "corrupt=99999999", "delay=-1s", "fail=EIO;;", "fail=EWHAT", "fail:null:1",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		rules, err := spec.ParseRules(text)
		if err != nil {
			if !errors.Is(err, unix.EINVAL) {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		m, th := newManager()
		if _, err := spec.Create(m, th, "null:1MiB,name=below", spec.Options{}); err != nil {
			t.Fatal(err)
		}
		if _, err := errinj.Create(m, th, errinj.Options{Name: "x", Base: "below", Rules: rules}); err != nil {
			t.Fatalf("%q: %+v: %v", text, rules, err)
		}
	})
}

// FuzzCreate: whatever a spec says, either the devices that it names are there, or the error carries an errno and none
// is left behind.
func FuzzCreate(f *testing.F) {
	for _, s := range []string{
		"malloc:1MiB,md=64,bs=512", "null:400GiB,md=8", "zone:256KiB,units=4,max-open=3:null:1MiB", "errinj:fail=EIO,prob=1:delay:read=1ms,write=2us:null:1MiB",
		"volatile:size=1MiB,early=0.5:malloc:1MiB", "passthru:name=a:null:1MiB,name=a", "null:7PiB,bs=1048576", "malloc:0", "delay:1h1s:null:1MiB",
		"zone:4KiB:null:1TiB", "null:1MiB,bs=513",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := spec.Parse(text)
		depth := 0
		for b := s; b != nil && err == nil; b = b.Base {
			n, _ := spec.ParseSize(b.Main)
			if b.Kind == "file" || strings.HasPrefix(b.Kind, "zone") && n < 1<<16 || b.Kind == "malloc" && n > 16<<20 || b.Kind == "volatile" {
				t.Skip("touches files, or takes more memory than a fuzzer should")
			}
			depth++
		}
		m, th := newManager()
		top, err := spec.Create(m, th, text, spec.Options{})
		if err == nil {
			if len(m.All()) != depth {
				t.Fatalf("%q: %d devices, not %d", text, len(m.All()), depth)
			}
			for _, b := range m.All() {
				if i := b.Info(); i.Blocks == 0 || i.BlockSize == 0 {
					t.Fatalf("%q: %+v", text, i)
				}
			}
			remove(t, m, th, top, text)
			return
		}
		var errno unix.Errno
		if !errors.As(err, &errno) {
			t.Fatalf("%q: %v wraps no errno", text, err)
		}
		for i := int64(1); i < 100 && len(m.All()) > 0; i++ { // what was made goes one after the other
			th.Poll(0, i*1e6)
		}
		if len(m.All()) != 0 {
			t.Fatalf("%q: left %d devices behind", text, len(m.All()))
		}
	})
}

func TestRulesNameNoDevice(t *testing.T) {
	for _, text := range []string{"fail:null:1MiB", "fail:malloc:1MiB", "fail=EIO:passthru"} {
		if rules, err := spec.ParseRules(text); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%q: %+v, %v", text, rules, err)
		}
	}
}
