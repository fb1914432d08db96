// Package mutants shows that the simulator finds bugs: it builds the FTL with one deliberate defect at a time, as an
// overlay over the sources, and runs seeds of ftlsim until one fails. A defect that survives is a hole in the
// simulator. make sim-mutants runs it (build tag mutants); SEEDS is the most seeds that a defect may take.
package mutants
