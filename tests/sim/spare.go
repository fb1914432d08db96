package sim

import "sync"

// spare are the pages of devices that are not used any more: a run takes tens of megabytes, and there are thousands.
var spare sparePages

// pageKind is the size of a page's data and of its metadata.
type pageKind struct{ data, md int }

type sparePages struct {
	mu    sync.Mutex
	pages map[pageKind][]*page
}

// take returns a page, or nil. What it holds is left to chance: pages are written before they are read.
func (s *sparePages) take(k pageKind) *page {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.pages[k]
	if len(l) == 0 {
		return nil
	}
	p := l[len(l)-1]
	s.pages[k] = l[:len(l)-1]
	return p
}

func (s *sparePages) give(k pageKind, pages []*page) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pages == nil {
		s.pages = make(map[pageKind][]*page)
	}
	s.pages[k] = append(s.pages[k], pages...)
}
