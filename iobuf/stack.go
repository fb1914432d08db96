package iobuf

import "sync/atomic"

// stack is a lock-free LIFO of buffer numbers that any thread may use. The
// head carries a tag that changes with every operation, so a number that was
// popped and pushed again is not mistaken for one that never moved.
type stack struct {
	head atomic.Uint64 // tag<<32 | number+1; 0 in the low half: empty
	next []atomic.Uint32
	size atomic.Int64
}

func newStack(n int) *stack {
	s := &stack{next: make([]atomic.Uint32, n)}
	for i := n - 1; i >= 0; i-- {
		s.push(uint32(i))
	}
	return s
}

func (s *stack) push(i uint32) {
	for {
		h := s.head.Load()
		s.next[i].Store(uint32(h))
		if s.head.CompareAndSwap(h, (h>>32+1)<<32|uint64(i+1)) {
			s.size.Add(1)
			return
		}
	}
}

func (s *stack) pop() (uint32, bool) {
	for {
		h := s.head.Load()
		top := uint32(h)
		if top == 0 {
			return 0, false
		}
		next := s.next[top-1].Load()
		if s.head.CompareAndSwap(h, (h>>32+1)<<32|uint64(next)) {
			s.size.Add(-1)
			return top - 1, true
		}
	}
}
