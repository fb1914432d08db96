package reactor_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"goftl/poller"
	"goftl/reactor"
	"goftl/thread"
)

func TestDriveRunsMessagesTimersAndEvents(t *testing.T) {
	th := thread.NewSystem().NewThread("t")
	ran, ticks := false, 0
	th.Send(func(any) {
		ran = true
		th.RegisterPoller("tick", func(any) poller.Result { ticks++; return poller.Busy }, nil, time.Millisecond)
	}, nil)
	require.True(t, reactor.Drive(th, func() bool { return ran && ticks >= 3 }, 5*time.Second))
	require.False(t, reactor.Drive(th, func() bool { return false }, 20*time.Millisecond))

	efd, err := unix.Eventfd(0, unix.EFD_NONBLOCK)
	require.NoError(t, err)
	defer func() { _ = unix.Close(efd) }()
	var buf [8]byte
	events := 0
	w, err := th.WatchFD(efd, unix.EPOLLIN, func(_ any, ev uint32) {
		require.Equal(t, uint32(unix.EPOLLIN), ev)
		_, _ = unix.Read(efd, buf[:])
		events++
	}, nil)
	require.NoError(t, err)
	_, err = unix.Write(efd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	require.NoError(t, err)
	require.True(t, reactor.Drive(th, func() bool { return events == 1 }, 5*time.Second))
	require.NoError(t, w.Close())
	require.NoError(t, w.Close())
	require.ErrorIs(t, w.Modify(unix.EPOLLIN), unix.EBADF)
	_, err = unix.Write(efd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	require.NoError(t, err)
	require.False(t, reactor.Drive(th, func() bool { return events == 2 }, 10*time.Millisecond))
}
