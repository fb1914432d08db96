package cli

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"goftl/nbd/client"
)

// FuzzPlan: whatever is asked for is planned, or refused with a message; nothing is made.
func FuzzPlan(f *testing.F) {
	f.Add("8GiB", "", "", "", "")
	f.Add("1.5GiB", "64MiB", "30", "", "")
	f.Add("", "", "7", "null:1GiB,md=64", "null:40GiB")
	f.Add("7EiB", "7EiB", "99", "", "")
	f.Add("4096", "4096", "0", "malloc:1MiB", "passthru:null:7PiB")
	f.Add("x", "-1", "4294967296", ":", "null:1GiB,md=99999999999")
	f.Fuzz(func(t *testing.T, size, cacheSize, spare, cache, base string) {
		if strings.Contains(cache+base, "file:") {
			t.Skip("looks at files")
		}
		args := []string{"plan"}
		for _, a := range [][2]string{{"--size", size}, {"--cache-size", cacheSize}, {"--spare", spare}, {"--cache", cache}, {"--base", base}} {
			if a[1] != "" {
				args = append(args, a[0]+"="+a[1])
			}
		}
		var out, errw bytes.Buffer
		switch code := Main(args, &out, &errw); code {
		case exitOK:
			require.Contains(t, out.String(), "usable capacity")
		case exitFailed, exitUsage:
			require.NotEmpty(t, errw.String())
		default:
			require.Fail(t, "exit code", code)
		}
	})
}

// FuzzURI: the URI that serve prints leads to where it listens, whatever the path and the name.
func FuzzURI(f *testing.F) {
	f.Add("/run/ftl0/nbd.sock", "ftl0")
	f.Add("/a b/c&d+e=f?g#h%25", "x/y z?")
	f.Add("/ä", "")
	f.Fuzz(func(t *testing.T, path, export string) {
		if strings.ContainsRune(path, 0) {
			t.Skip("no path has a zero byte, and no argument either")
		}
		g, err := client.ParseURI(nbdURI("unix:/"+path, export))
		require.NoError(t, err)
		require.Equal(t, client.Target{Network: "unix", Address: "/" + path, Export: export}, g)
	})
}
