// Package nbdsim runs the NBD server over the FTL over simulated disks, with simulated clients, as a pure function of a
// seed.
//
// Target puts the server in front of the FTL of package ftlsim: to its player it is a Device like any other, so the
// same load, the same crashes and the same model apply. What a player's block is, it decides: a cell, which is a whole
// block of the device or a part of one with odd ends (see cells), so that a player's request is an NBD request of any
// alignment. Requests travel as bytes over several connections that lose time, cut the bytes anywhere, hold few of
// them, and break. The server's code is the real one, from the first byte of the negotiation to the socket: only
// accepting and the system's sockets are replaced.
//
// Some clients ask for the status of blocks before they read them, and take zeroes for what is a hole: the model then
// says whether that was right.
//
// Clients vanish, half-close, say good-bye with requests under way and come back; read slowly or not at all; send
// garbage, half requests, and requests that the protocol forbids, whose refusal is compared with what it must be. What
// was lost with a connection is sent again, or given up, once the server has finished with it. In a stop it is given up.
//
// Checked besides what the player checks: each request is answered once, under its cookie, in a form that was agreed
// on, or its connection ends; what runs when a server stops is answered; no more is held than the limits allow; a
// server without requests holds nothing; one that stops lets go of everything.
package nbdsim
