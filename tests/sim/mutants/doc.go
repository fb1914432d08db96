// Command mutants shows that the simulator finds bugs: it builds the FTL with one deliberate defect at a time, as an
// overlay over the sources, and runs seeds of tests/sim/ftlsim until one fails. A defect that survives is a hole in the
// simulator. At the end the sources without a defect run the same seeds, which must pass.
//
// make sim-mutants runs it; SEEDS is the most seeds that a defect may take. The defects are in table*.go, what was
// found in docs/mutants.md. The package's own tests are quick: every defect still applies to the sources and compiles,
// every rule of power loss has one, and the document's tables are those of the package.
package main
