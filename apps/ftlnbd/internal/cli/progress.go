package cli

import (
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// progress shows how far a load is: a bar on a terminal, else a line every
// two seconds. What takes less than half a second shows nothing. Its update
// may be called from any goroutine.
type progress struct {
	w     io.Writer
	tty   bool
	mu    sync.Mutex
	began time.Time
	last  time.Time
	phase string
	bar   *progressbar.ProgressBar
}

func newProgress(w io.Writer) *progress {
	p := &progress{w: w, began: time.Now()}
	if f, ok := w.(*os.File); ok {
		p.tty = term.IsTerminal(int(f.Fd()))
	}
	return p
}

const (
	progressAfter = 500 * time.Millisecond
	progressEvery = 100 * time.Millisecond
	progressLine  = 2 * time.Second
)

func (p *progress) update(phase string, done, total uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	every := progressLine
	if p.tty {
		every = progressEvery
	}
	if now.Sub(p.began) < progressAfter || (now.Sub(p.last) < every && phase == p.phase) {
		return
	}
	p.last = now
	if phase != p.phase && p.bar != nil {
		_ = p.bar.Finish()
		p.bar = nil
	}
	p.phase = phase
	if p.bar == nil {
		p.bar = progressbar.NewOptions64(int64(total), progressbar.OptionSetWriter(p.w),
			progressbar.OptionSetDescription(phase), progressbar.OptionSetWidth(30),
			progressbar.OptionClearOnFinish(), progressbar.OptionUseANSICodes(p.tty))
	}
	_ = p.bar.Set64(int64(done))
	if !p.tty {
		_, _ = io.WriteString(p.w, "\n")
	}
}

func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		_ = p.bar.Finish()
		p.bar = nil
	}
}
