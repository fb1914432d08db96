package cli

const longHelp = `ftlperf keeps IOs in flight on a block device, an FTL or an NBD server, and says how
many complete a second and how long they take. Its options are fio's where fio has them.

What to run on, exactly one of:
  SPEC or --bdev SPEC          any block device ("ftlperf help specs")
  --cache SPEC --base SPEC     an FTL made of the two; reports write amplification by source
  --no-cache --base SPEC       an FTL without a cache; --metadata SPEC if its base is zoned throughout
  --nbd URI --connections N    an NBD export, through a lean client that batches its requests

When neither --size, --io_size, --number_ios nor --runtime ends a run, it ends after one
pass over the device or 10 s, whichever comes first.

With --verify every block that is written carries its address, a generation and a checksum;
every read of it is checked, and everything is read back in the end. Several jobs then get
a part of the range each, and two IOs never overlap.

Latencies are taken from the time of the reactor's turn, which costs nothing and is exact to
the length of a turn (a few microseconds at high depth on a RAM device); --clock=precise
reads the clock for every IO instead.

The exit status is 0, 1 when IOs failed or data was wrong, 2 when nothing could be run.`

const examples = `  # What the framework costs: 4 KiB writes to a device that does nothing, with the machine's yardstick
  ftlperf null:400GiB --rw=randwrite --bs=4k --iodepth=128 --norandommap --yardstick

  # RAM, filled first so that no page faults are measured; 70 % reads, hot and cold blocks
  ftlperf malloc:4GiB --fill --rw=randrw --rwmixread=70 --random_distribution=zipf:1.2 --iodepth=32 --runtime=5

  # A file through io_uring: random writes with a flush every 32, for 10 seconds, JSON as fio prints it
  ftlperf file:/data/test.img,size=10GiB --rw=randwrite --iodepth=32 --fsync=32 --runtime=10 --time_based --output-format=json

  # Data integrity: mixed writes and trims' worth of stamps, checked while running and in the end
  ftlperf malloc:1GiB --rw=randrw --iodepth=64 --verify --runtime=10

  # An FTL: how much is written for every user block, and by whom
  ftlperf --cache malloc:1GiB,md=64 --base malloc:8GiB --rw=randwrite --iodepth=128 --norandommap --fill --runtime=30 --time_based

  # The write path of an FTL whose base never fills, on memory that was touched before
  ftlperf --cache malloc:5GiB,md=64 --base null:400GiB --prefault --rw=randwrite --iodepth=128 --norandommap --runtime=10 --time_based --yardstick

  # Drop that FTL after 5 seconds without a shutdown, recover, and check every acknowledged block
  ftlperf --cache malloc:1GiB --base malloc:8GiB --rw=randwrite --iodepth=128 --verify --crash-after=5s

  # An FTL on zones and nothing else: one zone of each of 4 units makes a band, written by append
  ftlperf --no-cache --base zone:64MiB,units=4,conv=2:malloc:8GiB --zone-append --rw=write --bs=128k --iodepth=8

  # An NBD server, four connections with 32 requests in flight each
  ftlperf --nbd 'nbd+unix:///ftl0?socket=/run/nbd.sock' --connections=4 --rw=randread --iodepth=32 --runtime=5 --time_based

  # Two steps: verified writes, then (after the server was killed and restarted) only the check
  ftlperf --nbd URI --rw=randwrite --verify --do_verify=0 --verify-state=/tmp/expected --runtime=5
  ftlperf --nbd URI --verify_only --verify-state=/tmp/expected`

const specsHelp = `A device is named by a spec, kind:main[,key=value...]; wrappers stand in front of another spec.

  malloc:SIZE[,bs=4096][,md=64]                    memory; md: separate metadata bytes a block
  null:SIZE[,bs=4096][,md=64]                      forgets what is written
  file:PATH[,size=SIZE][,driver=uring|aio][,direct=auto|on|off]
                                                   a file or block device; with size= a sparse file is made
  passthru:SPEC                                    hands everything on: what one layer costs
  zone:SIZE[,units=N][,...]:SPEC                   zones over a conventional device
  delay:TIME:SPEC                                  answers later
  errinj:RULE[;RULE...]:SPEC                       fails, delays, corrupts, tears or drops IOs

Examples: malloc:5GiB,md=64   null:400GiB   file:/data/f.img,size=20GiB,driver=aio
          zone:256MiB,units=4:malloc:8GiB   delay:100us:malloc:1GiB   errinj:fail=EIO,op=read,prob=0.001:malloc:1GiB`

const yardstickHelp = `The yardstick is the memory traffic that a log-structured write has to pay, without any
framework: one pinned thread copies 4 KiB from a 512 KiB source to the next position of a
2 GiB mapping in transparent hugepages, and updates a random 4-byte entry of a table.
Figures from different machines, or from a shared machine at different hours, are
compared as multiples of it: "x M IOPS = y of yardstick".`
