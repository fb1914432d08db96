// Package yardstick measures the machine: the memory traffic that any log-structured
// 4 KiB write has to pay, without any framework. Figures of different machines,
// or of a shared machine at different hours, are compared as multiples of it.
//
// One pinned, locked thread copies 4 KiB from a 512 KiB source to the next
// position of a 2 GiB transparent-hugepage mapping, then updates a random 4-byte
// entry of a table that has one entry for each 4 KiB of that mapping.
package yardstick

import (
	"errors"
	"fmt"
	"math/bits"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	blockSize   = 4096
	sourceBytes = 512 << 10
	defaultLog  = 2 << 30
	batch       = 4096 // writes between two looks at the clock
)

// Result is one measurement.
type Result struct {
	Writes  uint64
	Elapsed time.Duration
	CPU     time.Duration // that the thread got; less than Elapsed where others share the CPU
}

// PerSecond returns writes a second.
func (r Result) PerSecond() float64 { return float64(r.Writes) / r.Elapsed.Seconds() }

// Nanoseconds returns the cost of one write.
func (r Result) Nanoseconds() float64 { return float64(r.Elapsed.Nanoseconds()) / float64(r.Writes) }

// CPUNanoseconds returns the CPU time of one write.
func (r Result) CPUNanoseconds() float64 { return float64(r.CPU.Nanoseconds()) / float64(r.Writes) }

// String is what the command prints.
func (r Result) String() string {
	return fmt.Sprintf("%.2f M/s (%.0f ns a write, %.0f of them CPU)", r.PerSecond()/1e6, r.Nanoseconds(), r.CPUNanoseconds())
}

// Options of a measurement.
type Options struct {
	CPU      int           // pinned to; -1: to the one that it starts on
	Duration time.Duration // of each run
	Runs     int           // the median counts; 0 means 3
	LogBytes int           // size of the mapping, a multiple of 4 KiB; 0 means the 2 GiB that figures are compared by
}

// Measure runs the yardstick and returns the median run. It needs 2 GiB of
// memory while it runs, and blocks for Runs * Duration and the time of one warm-up pass.
func Measure(o Options) (Result, error) {
	done := make(chan error, 1)
	var result Result
	go func() {
		// The goroutine ends locked, so its pinned thread ends with it.
		runtime.LockOSThread()
		var err error
		result, err = measurePinned(o)
		done <- err
	}()
	err := <-done
	return result, err
}

func measurePinned(o Options) (Result, error) {
	if o.CPU < 0 {
		o.CPU = currentCPU()
	}
	var set unix.CPUSet
	set.Set(o.CPU)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return Result{}, fmt.Errorf("yardstick: pin to CPU %d: %w", o.CPU, err)
	}
	if o.LogBytes == 0 {
		o.LogBytes = defaultLog
	}
	if o.Runs == 0 {
		o.Runs = 3
	}
	w, err := newWriter(o.LogBytes)
	if err != nil {
		return Result{}, err
	}
	w.write(o.LogBytes / blockSize) // touch every page
	runs := make([]Result, o.Runs)
	for i := range runs {
		runs[i] = w.run(o.Duration)
	}
	return median(runs), w.close()
}

func currentCPU() int {
	var cpu uint32
	if _, _, errno := unix.RawSyscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&cpu)), 0, 0); errno != 0 {
		return 0
	}
	return int(cpu)
}

func median(runs []Result) Result {
	for i := range runs {
		for j := i; j > 0 && runs[j].PerSecond() < runs[j-1].PerSecond(); j-- {
			runs[j], runs[j-1] = runs[j-1], runs[j]
		}
	}
	return runs[len(runs)/2]
}

type writer struct {
	source, log, tableBytes []byte
	table                   []uint32
	position                int
	random                  uint64
}

func newWriter(logBytes int) (*writer, error) {
	w := &writer{random: 1}
	var err error
	if w.log, err = mapHuge(logBytes); err != nil {
		return nil, err
	}
	if w.tableBytes, err = mapHuge(logBytes / blockSize * 4); err != nil {
		return nil, errors.Join(err, unix.Munmap(w.log))
	}
	if w.source, err = mapHuge(sourceBytes); err != nil {
		return nil, errors.Join(err, unix.Munmap(w.log), unix.Munmap(w.tableBytes))
	}
	for i := range w.source {
		w.source[i] = byte(i * 131 >> 3)
	}
	w.table = unsafe.Slice((*uint32)(unsafe.Pointer(unsafe.SliceData(w.tableBytes))), len(w.tableBytes)/4)
	return w, nil
}

func mapHuge(size int) ([]byte, error) {
	m, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("yardstick: map %d MiB: %w", size>>20, err)
	}
	// Refused where the kernel has no transparent hugepages; then small pages are measured.
	_ = unix.Madvise(m, unix.MADV_HUGEPAGE)
	return m, nil
}

func (w *writer) close() error {
	return errors.Join(unix.Munmap(w.log), unix.Munmap(w.tableBytes), unix.Munmap(w.source))
}

func (w *writer) run(d time.Duration) Result {
	start, cpu := time.Now(), threadCPU()
	for r := (Result{}); ; {
		w.write(batch)
		r.Writes += batch
		if r.Elapsed = time.Since(start); r.Elapsed >= d {
			r.CPU = threadCPU() - cpu
			return r
		}
	}
}

// threadCPU is the CPU time that the calling thread has used.
func threadCPU() time.Duration {
	var ru unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_THREAD, &ru) // cannot fail for oneself
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

func (w *writer) write(n int) {
	for range n {
		w.random += 0xa0761d6478bd642f
		hi, lo := bits.Mul64(w.random, w.random^0xe7037ed1a0b428db)
		random := hi ^ lo
		from := int(random % (sourceBytes / blockSize) * blockSize)
		copy(w.log[w.position:w.position+blockSize], w.source[from:from+blockSize])
		w.table[(random>>32)*uint64(len(w.table))>>32] = uint32(w.position / blockSize)
		if w.position += blockSize; w.position == len(w.log) {
			w.position = 0
		}
	}
}
