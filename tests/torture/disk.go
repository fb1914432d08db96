package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// errNoDisk says that a small disk cannot be made here.
var errNoDisk = errors.New("no small disk can be made")

const smallMiB = 120 // what a disk has room for, less than the device's files come to take

// smallDisk mounts a file system that gets full: a tmpfs, or ext4 in a file.
func (c *campaign) smallDisk() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: mounting needs root", errNoDisk)
	}
	mnt := filepath.Join(c.spot.aux, "m")
	if err := os.Mkdir(mnt, 0o700); err != nil {
		return err
	}
	c.spot.disk = mnt
	if c.shape.memory {
		return c.smallTmpfs(mnt)
	}
	return c.smallExt4(mnt)
}

func (c *campaign) smallTmpfs(mnt string) error {
	if err := tool("mount", "-t", "tmpfs", "-o", "size="+strconv.Itoa(smallMiB)+"m", "goftl-torture", mnt); err != nil {
		return err
	}
	c.spot.undo = append(c.spot.undo, func() { unmount(mnt) })
	c.spot.grow = func() error { return tool("mount", "-o", "remount,size=2g", mnt) }
	return nil
}

// smallExt4 fills an image with a file but for some room.
func (c *campaign) smallExt4(mnt string) error {
	image := filepath.Join(c.spot.aux, "disk.img")
	if err := tool("truncate", "-s", "800M", image); err != nil {
		return err
	}
	if err := tool("mkfs.ext4", "-q", "-F", "-m", "0", image); err != nil {
		return err
	}
	if err := tool("mount", "-o", "loop", image, mnt); err != nil {
		return err
	}
	c.spot.undo = append(c.spot.undo, func() { unmount(mnt) })
	var st unix.Statfs_t
	if err := unix.Statfs(mnt, &st); err != nil {
		return err
	}
	ballast := filepath.Join(mnt, "ballast")
	c.spot.grow = func() error { return os.Remove(ballast) }
	return tool("fallocate", "-l", strconv.FormatUint(st.Bavail*uint64(st.Bsize)-smallMiB<<20, 10), ballast)
}

// tool runs a program that a small disk needs.
func tool(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s %s: %w: %s", errNoDisk, name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// unmount unmounts; files of a process that was killed are let go of a moment after its end.
func unmount(mnt string) {
	for range 100 {
		if exec.Command("umount", mnt).Run() == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	_ = exec.Command("umount", "-l", mnt).Run() // the last resort
}
