// Command torture tries to make the real binary lose data: it serves real files with bin/ftlnbd, keeps clients busy
// that know what was acknowledged and what was flushed, and ends the server in every way it can think of. After each
// end the device is started again and every block compared with what may be there.
//
// A campaign is one device that lives many times; its number is the seed, which also says which world it lives in:
//
//	kill    plain files, the mapping in shared memory in some lives: what was acknowledged is there after kill -9
//	power   a volatile cache (bdev/volatile) in front of both files: kill -9 drops what was not flushed
//	zoned   a zoned base (bdev/zone, with its write pointers kept) over such a cache, or over the plain file
//	alone   no cache device: the base alone, or zones of which some are conventional, over such a cache or over the plain file
//	full    files on a disk that is smaller than they are: writes fail with ENOSPC, and nothing else goes wrong
//
// Where there is such a cache, it may also kill the server by itself, right behind some block that it wrote back: in the
// middle of a flush, of a checkpoint, of a creation.
//
// Some servers answer writes from a buffer of their own (--volatile-write-cache); after their death too only what was
// flushed must be there.
//
// A life ends by kill -9, by kill -9 of a server that is stopped (SIGSTOP), by SIGTERM, by kill -9 while a SIGTERM is
// at work, or by a second SIGTERM; before the next one, starts may be killed on their way. Meanwhile one client keeps vanishing in the
// middle of its requests, and SIGSTOP freezes the server for seconds.
//
// What happens is a function of the seed, when it happens is not: a seed that found something may need more than one
// try. The exit code is 0 when nothing was lost, 1 when something was, 2 when the run could not be made.
package main
