package reactor

// Policy says what balancing aims at. Loads are thousandths of a reactor's time.
type Policy struct {
	High int // a reactor with more load than this gives threads away
	Low  int // one with less than this is emptied, so that it sleeps for good
	Fill int // ... onto reactors that do not get beyond this by it
	Gain int // a thread moves only when the larger load of the two reactors falls by this much
}

// DefaultPolicy spreads what would not fit and gathers what hardly runs.
var DefaultPolicy = Policy{High: 800, Low: 100, Fill: 500, Gain: 100}

// load is how busy one thread was; a fixed one stays where it is.
type load struct {
	permille int
	fixed    bool
}

// move is a thread, by its place on its reactor, and where it goes.
type move struct{ from, thread, to int }

// plan returns the moves for the loads of the threads of every reactor. It is a pure function: of equal choices the
// first is taken. A thread moves at most once.
func (p Policy) plan(loads [][]load) []move {
	total := make([]int, len(loads))
	count := make([]int, len(loads))
	moved := make([][]bool, len(loads))
	for i, threads := range loads {
		moved[i] = make([]bool, len(threads))
		count[i] = len(threads)
		for _, l := range threads {
			total[i] += l.permille
		}
	}
	var moves []move
	take := func(m move) {
		l := loads[m.from][m.thread].permille
		total[m.from] -= l
		total[m.to] += l
		count[m.from]--
		count[m.to]++
		moved[m.from][m.thread] = true
		moves = append(moves, m)
	}
	for {
		m, ok := p.relief(loads, total, moved)
		if !ok {
			break
		}
		take(m)
	}
	if len(moves) > 0 {
		return moves // gathering waits until the spreading has shown its effect
	}
	for from := len(loads) - 1; from >= 0; from-- {
		to := p.shelter(loads[from], from, total, count)
		if to < 0 {
			continue
		}
		for i := range loads[from] {
			take(move{from, i, to})
		}
	}
	return moves
}

// relief finds the move that lowers the load of the fullest reactor most.
func (p Policy) relief(loads [][]load, total []int, moved [][]bool) (move, bool) {
	from, to := 0, 0
	for i := range total {
		if total[i] > total[from] {
			from = i
		}
		if total[i] < total[to] {
			to = i
		}
	}
	if len(total) == 0 || total[from] <= p.High {
		return move{}, false
	}
	best, bestMax := -1, total[from]-p.Gain
	for i, l := range loads[from] {
		if l.fixed || moved[from][i] {
			continue
		}
		if after := max(total[from]-l.permille, total[to]+l.permille); after <= bestMax {
			best, bestMax = i, after-1
		}
	}
	return move{from, best, to}, best >= 0
}

// shelter finds a reactor that takes all threads of a hardly used one: the fullest that can; -1: none, or no need.
func (p Policy) shelter(threads []load, from int, total, count []int) int {
	if count[from] == 0 || count[from] != len(threads) || total[from] >= p.Low {
		return -1 // empty, or a shelter itself
	}
	for _, l := range threads {
		if l.fixed {
			return -1
		}
	}
	to := -1
	for i := range total {
		if i == from || count[i] == 0 || total[i]+total[from] > p.Fill {
			continue
		}
		if to < 0 || total[i] > total[to] {
			to = i
		}
	}
	return to
}
