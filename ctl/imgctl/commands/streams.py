"""Send streams."""

from __future__ import annotations

from imgctl.commands.base import HELP, Command

_ZSTREAM = """\
Commands:
    resume --token TOKEN [FILE]   write the stream that continues an interrupted
                                  `zfs receive -s` of FILE
    token TOKEN                   show what a receive token says, as JSON
    check [FILE]                  verify every checksum of a stream, and show
                                  what it is, as JSON
    write --name NAME DISK        write the stream of a volume with what is on
                                  DISK

FILE is a plain (not compressed) ZFS send stream; default is standard input.
`zstream COMMAND -h` shows all options. Needs no daemon. An interrupted receive
goes on with:

    zfs receive -s POOL/DATASET < FILE                        # interrupted
    token=$(zfs get -H -o value receive_resume_token POOL/DATASET)
    imgctl zstream resume --token $token FILE | zfs receive -s POOL/DATASET"""

COMMANDS = (
    Command(
        ("zstream",),
        "zstream COMMAND [ARGS...]",
        "check, continue or make send streams",
        "zstream:zstream",
        (HELP,),
        _ZSTREAM,
        mixed=False,
        examples=(("zstream check disk.zfs", "verify every checksum of a stream"),),
    ),
)
