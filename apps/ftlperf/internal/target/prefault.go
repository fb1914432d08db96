package target

import (
	"fmt"

	"golang.org/x/sys/unix"

	"goftl/bdev"
	"goftl/iobuf"
	"goftl/thread"
)

// prefault writes a device in memory once from end to end, so that a run does not measure
// the page faults of its first writes.
type prefault struct {
	desc  *bdev.Desc
	ch    *bdev.Channel
	buf   []byte
	lba   uint64
	count uint64 // blocks of the write under way
	done  func(error)
}

const prefaultBytes = 1 << 20

// memoryProduct is what devices in memory call themselves.
const memoryProduct = "Malloc disk"

// touch prefaults the device name, when it is one in memory, and waits for it.
func (m *machine) touch(name string, t *thread.Thread) error {
	if b := m.manager.Lookup(name); b == nil || b.Info().Product != memoryProduct {
		return nil
	}
	return m.await(t, func(done func(error)) {
		p := &prefault{done: done}
		if err := p.open(m.manager, name, t); err != nil {
			p.end(fmt.Errorf("prefault: %w", err))
			return
		}
		p.next()
	})
}

func (p *prefault) open(m *bdev.Manager, name string, t *thread.Thread) (err error) {
	if p.buf = iobuf.Alloc(prefaultBytes); p.buf == nil {
		return unix.ENOMEM
	}
	if p.desc, err = m.Open(name, true, nil, nil, t); err != nil {
		return err
	}
	p.ch, err = p.desc.Channel(t)
	return err
}

func (p *prefault) next() {
	info := p.desc.Bdev().Info()
	size := uint64(info.BlockSize)
	if p.count = min(prefaultBytes/size, info.Blocks-p.lba); p.count == 0 {
		p.end(nil)
		return
	}
	if err := p.ch.Write(p.buf[:p.count*size], p.lba, p.count, prefaulted, p); err != nil {
		p.end(err)
	}
}

func prefaulted(io *bdev.IO) {
	p := io.Ctx.(*prefault)
	if err := io.Err(); err != nil {
		p.end(err)
		return
	}
	p.lba += p.count
	p.next()
}

func (p *prefault) end(err error) {
	if p.ch != nil {
		p.ch.Put()
	}
	if p.desc != nil {
		p.desc.Close()
	}
	if p.buf != nil {
		iobuf.Free(p.buf)
	}
	p.done(err)
}
