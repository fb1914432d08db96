// Package spec makes block devices from a line of text, the same one on every
// command line and in every config:
//
//	malloc:SIZE[,bs=4096][,md=64][,uuid=U][,populate=on]
//	                                            memory; md: separate metadata bytes a block;
//	                                            populate: taken at once, not when first written
//	null:SIZE[,bs=4096][,md=64]                 nothing
//	file:PATH[,size=SIZE][,driver=uring|aio][,direct=auto|on|off][,depth=N][,readonly=on]
//	zbd:PATH[,driver=uring|aio][,depth=N][,units=N][,readonly=on]
//	                                            a zoned block device of the host
//	passthru:SPEC                               everything handed on
//	zone:SIZE[,cap=SIZE][,conv=N][,unit=SIZE][,units=N][,open=N][,active=N][,append=SIZE][,init=empty|full]
//	    [,readonly=N+N...][,offline=N+N...][,fail-reset=N][,persist=on][,unmap=auto|on|off]:SPEC
//	                                            zones; conv: so many at the beginning are conventional; unit: what
//	                                            is written begins and ends on it; units: zones side by side; open,
//	                                            active: limits; readonly, offline: numbers of zones; fail-reset:
//	                                            that reset fails and its zone turns offline; unmap: whether a
//	                                            reset gives the zone's blocks back, auto: unless they are populated
//	delay:TIME:SPEC  or  delay:read=TIME,write=TIME[,p99-read=TIME,p99-write=TIME,seed=N]:SPEC
//	errinj:RULE[;RULE...]:SPEC                  see below
//
// The last four stand in front of another device. Every kind takes name=N,
// else names are derived. Sizes are numbers of bytes, or numbers with a unit
// (K, M, G, T and KiB, MiB, GiB, TiB are powers of 1024; KB, MB, GB, TB of
// 1000). In a path or a value a comma, colon, semicolon or backslash is written
// behind a backslash; a colon in a path needs none.
//
// An errinj rule is one of fail=ERRNO (EIO, ENOMEM, ENOSPC, ...; with landed it
// is done all the same), delay=TIME, corrupt, tear (with sectors also within
// blocks), drop, hang, and when to do it: op=read+write (or all), lba=FROM-TO,
// nth=N (that one only), every=N, prob=0.01, seed=N, after=N, count=N (so often
// at most).
package spec
