package poller

// The heap of timed pollers, by hand: container/heap would call every comparison through an interface, and each
// poller has to know its index so that Pause and Unregister find it without a search.

func (s *Set) arm(p *Poller, deadline int64) {
	s.orders++
	p.deadline, p.order = deadline, s.orders
	p.slot = len(s.timed)
	s.timed = append(s.timed, p)
	s.up(p.slot)
	s.next = s.timed[0].deadline
}

func (s *Set) disarm(p *Poller) {
	i, last := p.slot, len(s.timed)-1
	moved := s.timed[last]
	s.timed[last] = nil
	s.timed = s.timed[:last]
	p.slot = -1
	if i != last {
		s.timed[i] = moved
		moved.slot = i
		s.down(i)
		s.up(moved.slot)
	}
	if last > 0 {
		s.next = s.timed[0].deadline
	} else {
		s.next = 0
	}
}

func (s *Set) before(i, j int) bool {
	a, b := s.timed[i], s.timed[j]
	if a.deadline != b.deadline {
		return a.deadline < b.deadline
	}
	return a.order < b.order
}

func (s *Set) swap(i, j int) {
	s.timed[i], s.timed[j] = s.timed[j], s.timed[i]
	s.timed[i].slot, s.timed[j].slot = i, j
}

func (s *Set) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !s.before(i, parent) {
			return
		}
		s.swap(i, parent)
		i = parent
	}
}

func (s *Set) down(i int) {
	for {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < len(s.timed); c++ {
			if s.before(c, least) {
				least = c
			}
		}
		if least == i {
			return
		}
		s.swap(i, least)
		i = least
	}
}
