package run

import (
	"fmt"
	"io"
	"strings"
	"time"

	"goftl/apps/ftlperf/internal/job"
	"goftl/apps/ftlperf/internal/units"
)

const (
	progressPeriod = 500 * time.Millisecond
	barWidth       = 20
	lineWidth      = 110
)

// Progress shows how a phase gets on. A nil one shows nothing.
type Progress struct {
	Out      io.Writer
	Terminal bool // rewrite one line; else a line each time

	phase   *phase
	started time.Time
	at      time.Time
	last    job.Progress
	shown   bool
}

func (p *Progress) begin(ph *phase) {
	if p == nil {
		return
	}
	p.phase, p.started, p.at, p.last, p.shown = ph, time.Now(), time.Now(), job.Progress{}, false
}

func (p *Progress) tick() {
	if p == nil {
		return
	}
	now, sum := time.Now(), p.phase.progress()
	line := progressLine(p.phase.name, p.last, sum, now.Sub(p.at), now.Sub(p.started))
	p.at, p.last, p.shown = now, sum, true
	if p.Terminal {
		line = "\r" + line + strings.Repeat(" ", max(0, lineWidth-len(line)))
	} else {
		line += "\n"
	}
	_, _ = io.WriteString(p.Out, line) // what cannot be shown is not shown
}

func (p *Progress) end() {
	if p != nil && p.shown && p.Terminal {
		_, _ = io.WriteString(p.Out, "\r"+strings.Repeat(" ", lineWidth)+"\r")
	}
}

// Note shows a line of its own.
func (p *Progress) Note(format string, args ...any) {
	if p != nil {
		_, _ = fmt.Fprintf(p.Out, format+"\n", args...)
	}
}

func progressLine(name string, before, now job.Progress, interval, elapsed time.Duration) string {
	filled := int(now.Fraction * barWidth)
	line := fmt.Sprintf("%s [%s%s] %5.1f%%", name, strings.Repeat("#", filled), strings.Repeat(".", barWidth-filled), now.Fraction*100)
	if now.Fraction > 0.001 && elapsed > time.Second {
		left := time.Duration(float64(elapsed) * (1 - now.Fraction) / now.Fraction)
		line += fmt.Sprintf(", %v left", left.Round(time.Second))
	}
	bytes := 0.0
	for d := range job.NumDirs {
		ios := after(now.IOs[d], before.IOs[d])
		bytes += after(now.Bytes[d], before.Bytes[d])
		if now.IOs[d] > 0 {
			line += fmt.Sprintf(", %s %s/s", d, units.Count(ios/interval.Seconds()))
		}
	}
	return line + fmt.Sprintf(", %s/s", units.Bytes(bytes/interval.Seconds()))
}

// after is the difference, also when a ramp has reset the count.
func after(now, before uint64) float64 {
	if now < before {
		return float64(now)
	}
	return float64(now - before)
}
