//go:build e2e

package e2e

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"goftl/nbd/client"
	"goftl/nbd/proto"
	"goftl/tests/sim/model"
)

// TestHostileClients lets clients do their worst beside one that is well-behaved, and does not notice.
func TestHostileClients(t *testing.T) {
	needOurs(t)
	dir := shortDir(t)
	s := serveIn(t, dir, smallSize, small(dir)...)
	half := uint64(smallBytes / 2 / model.BlockSize)
	w := newWriter(t, seedOf(t), half, half) // hostile clients that get to write do so in the first half
	stop := make(chan struct{})
	var good sync.WaitGroup
	c := s.dial(16)
	_, gone := w.run(c, 8, 100) // before files are counted
	require.False(t, gone)
	w.drain(c)
	files := openFiles(t, s)
	// Where the test ends early, the good client ends first.
	defer func() {
		select {
		case <-stop:
		default:
			close(stop)
			good.Wait()
		}
	}()
	good.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if _, gone := w.run(c, 8, 50); gone {
					t.Error("the good client was cut off")
					return
				}
				w.drain(c)
				time.Sleep(5 * time.Millisecond)
			}
		}
	})
	for _, k := range []struct {
		name string
		f    func(t *testing.T, s *server)
	}{
		{"vanish at once", vanishAtOnce},
		{"garbage in the handshake", garbageHandshake},
		{"odd options", oddOptions},
		{"half a request", halfRequests},
		{"garbage for requests", garbageRequests},
		{"requests outside of the device", outside},
		{"vanish with requests in flight", vanishInFlight},
		{"never read a reply", neverRead},
		{"many idle connections", manyIdle},
	} {
		t.Run(k.name, func(t *testing.T) {
			own := *s // what it leaves open is closed when it ends
			own.t = t
			k.f(t, &own)
		})
	}
	close(stop)
	good.Wait()
	require.False(t, t.Failed())
	w.verify(c)
	require.Eventually(t, func() bool { return openFiles(t, s) <= files }, 10*time.Second, 50*time.Millisecond, "sockets are left open: %s", listFiles(s))
	t.Logf("memory afterwards: %d MiB", memory(t, s, "VmRSS")>>20)
	require.Less(t, memory(t, s, "VmRSS"), uint64(640<<20), "512 MiB of requests and what the device takes")
	c.Close()
	begin := time.Now()
	s.stop()
	require.Less(t, time.Since(begin), 20*time.Second)
	s.check()
}

func vanishAtOnce(t *testing.T, s *server) {
	for range 200 {
		c := s.raw()
		require.NoError(t, c.Close())
	}
}

func garbageHandshake(t *testing.T, s *server) {
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 100 {
		c := s.raw()
		b := make([]byte, 1+r.IntN(5000))
		for k := range b {
			b[k] = byte(r.Uint32())
		}
		if i%2 == 0 { // right flags, then garbage
			copy(b, "\x00\x00\x00\x03")
		}
		if i%4 == 0 && len(b) > 20 {
			copy(b[4:], "IHAVEOPT")
		}
		_, _ = c.Write(b) // the server may have closed already
		if i%3 == 0 {
			_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			_, _ = io.Copy(io.Discard, c)
		}
		require.NoError(t, c.Close())
	}
	// A request of another protocol, whole.
	c := s.raw()
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
	require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	_, err := io.Copy(io.Discard, c)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "a client that does not speak NBD is to be cut off")
}

func option(o proto.Option, length uint32, data []byte) []byte {
	b := append([]byte(nil), "IHAVEOPT"...)
	b = binary.BigEndian.AppendUint32(b, uint32(o))
	b = binary.BigEndian.AppendUint32(b, length)
	return append(b, data...)
}

func oddOptions(t *testing.T, s *server) {
	for name, k := range map[string]struct {
		send   []byte
		closes bool
	}{
		"unknown option":            {option(4711, 3, []byte("abc")), false},
		"half of a huge option":     {option(proto.OptGo, 0xffffffff, make([]byte, 100_000)), false},
		"name longer than option":   {option(proto.OptGo, 6, []byte{0, 0, 1, 0, 0, 0}), false},
		"unknown export":            {option(proto.OptGo, 4+5+2, append([]byte{0, 0, 0, 5}, "nope!\x00\x00"...)), false},
		"unknown export by name":    {option(proto.OptExportName, 5, []byte("nope!")), true},
		"empty meta context":        {option(proto.OptSetMetaContext, 0, nil), false},
		"STARTTLS":                  {option(proto.OptStartTLS, 0, nil), false},
		"list with data":            {option(proto.OptList, 2, []byte("xx")), false},
		"half an option, then gone": {option(proto.OptGo, 100, []byte("abc")), false},
	} {
		c := s.raw()
		require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
		hello := make([]byte, 18)
		_, err := io.ReadFull(c, hello)
		require.NoError(t, err)
		_, err = c.Write(append([]byte{0, 0, 0, 3}, k.send...))
		require.NoError(t, err)
		switch {
		case k.closes:
			_, err := io.Copy(io.Discard, c)
			require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "%s: the connection was to be closed", name)
		case !strings.Contains(name, "half"):
			reply := make([]byte, 20)
			_, err = io.ReadFull(c, reply)
			require.NoError(t, err, name)
			kind := binary.BigEndian.Uint32(reply[12:])
			require.NotZero(t, kind&(1<<31), "%s: an error was to be answered, not %d", name, kind)
			_, err = io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(reply[16:])))
			require.NoError(t, err)
			// Still in step: the next option is answered.
			_, err = c.Write(option(proto.OptList, 0, nil))
			require.NoError(t, err)
			_, err = io.ReadFull(c, reply)
			require.NoError(t, err, name)
			require.Equal(t, uint32(proto.OptList), binary.BigEndian.Uint32(reply[8:]), name)
			require.Zero(t, binary.BigEndian.Uint32(reply[12:])&(1<<31), "%s: the list is refused", name)
		}
		require.NoError(t, c.Close())
	}
}

func halfRequests(t *testing.T, s *server) {
	for i := range 60 {
		c := s.transmission()
		header := make([]byte, proto.RequestSize)
		proto.PutRequest(header, &proto.Request{Command: proto.CmdWrite, Length: 1 << 20})
		var err error
		switch i % 3 {
		case 0: // a part of the header
			_, err = c.Write(header[:1+i%27])
		case 1: // the header alone
			_, err = c.Write(header)
		case 2: // a part of the data
			_, err = c.Write(append(header, make([]byte, 100_000+i)...))
		}
		require.NoError(t, err)
		if i%2 == 0 {
			time.Sleep(2 * time.Millisecond)
		}
		require.NoError(t, c.Close())
	}
}

func garbageRequests(t *testing.T, s *server) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 50 {
		c := s.transmission()
		b := make([]byte, 28+r.IntN(2000))
		for k := range b {
			b[k] = byte(r.Uint32())
		}
		_, _ = c.Write(b)
		_, err := io.Copy(io.Discard, c)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "round %d: without the magic the connection is to be cut", i)
		require.NoError(t, c.Close())
	}
	// The magic is right and the command is not known: answered, and the connection goes on.
	c := s.transmission()
	require.NoError(t, c.request(99, 0, 512))
	e, err := c.answer(0)
	require.NoError(t, err)
	require.Equal(t, proto.ErrInval, e)
	require.NoError(t, c.request(proto.CmdRead, 0, 512))
	e, err = c.answer(512)
	require.NoError(t, err)
	require.Equal(t, proto.OK, e)
	// Flags that nobody defined.
	b := make([]byte, proto.RequestSize)
	proto.PutRequest(b, &proto.Request{Command: proto.CmdRead, Flags: 0x8000, Length: 512})
	_, err = c.Write(b)
	require.NoError(t, err)
	e, err = c.answer(512)
	require.NoError(t, err)
	require.Equal(t, proto.ErrInval, e)
}

func outside(t *testing.T, s *server) {
	c := s.transmission()
	for _, k := range []struct {
		cmd    proto.Command
		offset uint64
		length uint32
		want   proto.Errno
	}{
		{proto.CmdRead, c.size, 512, proto.ErrInval},
		{proto.CmdRead, c.size - 512, 1024, proto.ErrInval},
		{proto.CmdRead, 1<<64 - 512, 1024, proto.ErrInval},
		{proto.CmdRead, 1 << 63, 4096, proto.ErrInval},
		{proto.CmdTrim, c.size - 512, 1024, proto.ErrInval},
		{proto.CmdTrim, 1<<64 - 1, 0xffffffff, proto.ErrInval},
		{proto.CmdWriteZeroes, c.size, 4096, proto.ErrNoSpc},
		{proto.CmdWrite, c.size, 4096, proto.ErrNoSpc},
		{proto.CmdWrite, c.size - 4096, 8192, proto.ErrNoSpc},
		{proto.CmdRead, 0, 0xffffffff, proto.ErrOverflow},
	} {
		require.NoError(t, c.request(k.cmd, k.offset, k.length))
		if k.cmd == proto.CmdWrite {
			_, err := c.Write(make([]byte, k.length))
			require.NoError(t, err)
		}
		e, err := c.answer(0)
		require.NoError(t, err, "%+v", k)
		require.NotEqual(t, proto.OK, e, "%+v", k)
		if e != k.want {
			t.Logf("%v of %d at %d: %v", k.cmd, k.length, k.offset, e)
		}
	}
	// A write of almost 4 GiB is refused without 4 GiB of memory.
	require.NoError(t, c.request(proto.CmdWrite, 0, 0xfffff000))
	_, err := c.Write(make([]byte, 1<<20))
	if err == nil {
		require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Second)))
		_, _ = io.Copy(io.Discard, c)
	}
}

func vanishInFlight(t *testing.T, s *server) {
	r := rand.New(rand.NewPCG(1, 3))
	for range 30 {
		c, err := client.DialOptions(s.uri(), client.Options{Depth: 64, Timeout: time.Minute})
		require.NoError(t, err)
		for i := range 64 {
			op := &client.Op{Command: proto.CmdRead, Offset: r.Uint64N(1000) << 12, Length: 64 << 10}
			switch i % 4 {
			case 1:
				op.Command, op.Buf = proto.CmdWrite, make([]byte, 64<<10)
			case 2:
				op.Command = proto.CmdFlush
				op.Offset, op.Length = 0, 0
			case 3:
				op.Command, op.Length = proto.CmdTrim, 8192
			}
			require.NoError(t, c.Submit(op))
		}
		require.NoError(t, c.Push())
		if r.IntN(2) == 0 {
			time.Sleep(time.Duration(r.IntN(3000)) * time.Microsecond)
		}
		require.NoError(t, c.Abort())
	}
}

// neverRead asks for much more than the sockets hold and reads none of it: the server must neither keep it all in
// memory nor keep others waiting.
func neverRead(t *testing.T, s *server) {
	var list []*rawConn
	for range 8 {
		c := s.transmission()
		list = append(list, c)
		require.NoError(t, c.SetWriteDeadline(time.Now().Add(200*time.Millisecond)))
		for range 5000 {
			if c.request(proto.CmdRead, 0, 128<<10) != nil {
				break // not read any more: as it should be
			}
		}
	}
	c := s.dial(1)
	begin := time.Now()
	for i := range 50 {
		_, err := c.WriteAt(bytes.Repeat([]byte{byte(i)}, 4096), 0)
		require.NoError(t, err)
	}
	t.Logf("50 writes beside them: %v", time.Since(begin))
	require.Less(t, memory(t, s, "VmRSS"), uint64(1<<30))
	for _, c := range list {
		require.NoError(t, c.Close())
	}
}

func manyIdle(t *testing.T, s *server) {
	for i := range 200 {
		if i%2 == 0 {
			s.raw()
		} else {
			s.dial(1)
		}
	}
	buf := make([]byte, 4096)
	_, err := s.dial(1).ReadAt(buf, 0)
	require.NoError(t, err)
}

// openFiles is the number of open files of the server.
func openFiles(t *testing.T, s *server) int {
	t.Helper()
	list, err := os.ReadDir("/proc/" + strconv.Itoa(s.cmd.Process.Pid) + "/fd")
	require.NoError(t, err)
	return len(list)
}

func listFiles(s *server) string {
	dir := "/proc/" + strconv.Itoa(s.cmd.Process.Pid) + "/fd"
	list, _ := os.ReadDir(dir)
	text := ""
	for _, e := range list {
		to, _ := os.Readlink(dir + "/" + e.Name())
		text += to + " "
	}
	return text
}

// memory is a line of /proc/PID/status in bytes.
func memory(t *testing.T, s *server, line string) uint64 {
	t.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(s.cmd.Process.Pid) + "/status")
	require.NoError(t, err)
	_, rest, ok := strings.Cut(string(text), "\n"+line+":")
	require.True(t, ok)
	n, err := strconv.ParseUint(strings.Fields(rest)[0], 10, 64)
	require.NoError(t, err)
	return n << 10
}
