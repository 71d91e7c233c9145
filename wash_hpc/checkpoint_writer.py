"""Writes checkpoints in the background, so that the training loop is held up for no more than a copy.

Each member's first replica copies its state into memory of the host, and a thread writes the file from there. No thread
calls MPI: that all files are there, which the manifest says, the ranks agree upon after a later step, which is
`checkpoints`' business to choose. The root's thread then writes the manifest and removes what is old.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wash_hpc.errors import RunFolderError
from wash_hpc.parallel.world import World, agreed
from wash_hpc.storage.checkpoint import CheckpointError, HostCopy, Manifest, MemberState, member_name, write_member
from wash_hpc.storage.kept import Best, complete


@dataclass(frozen=True)
class _Unfinished:
    """A checkpoint that is being written; the same on all ranks.

    Attributes:
        manifest: without checksums.
        best: the best so far.
        has_files: whether all members' files are there, and the root completes it.
    """

    manifest: Manifest
    best: Best | None
    has_files: bool = False


class CheckpointWriter:
    """At most one checkpoint under way, from `begin` to `finish`. One copy of the state is held, and used again.

    Args:
        folder: the run's.
        world: the ranks.
        keep: how many of the last checkpoints are kept.
        last_step: of the checkpoint from which the run goes on, or 0.
    """

    def __init__(self, folder: Path, world: World, keep: int, last_step: int) -> None:
        self._folder = folder
        self._world = world
        self._keep = keep
        self._last_step = last_step
        self._copy = HostCopy()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._unfinished: _Unfinished | None = None
        self._work: Future[Any] | None = None  # this rank's, where it has some

    @property
    def is_under_way(self) -> bool:
        """Whether there is a checkpoint to finish; the same on all ranks."""
        return self._unfinished is not None

    @property
    def is_busy(self) -> bool:
        """Whether this rank's thread is still at work. Local."""
        return self._work is not None and not self._work.done()

    def begin(self, manifest: Manifest, state: MemberState | None, best: Best | None) -> None:
        """Copy the state, and begin to write it. Local, by all ranks; what was under way has been finished.

        Args:
            manifest: of the checkpoint, without checksums; equal on all ranks.
            state: of this rank's member, where this rank writes it.
            best: the best so far, perhaps this one; equal on all ranks.
        """
        assert self._unfinished is None, "one checkpoint at a time"
        self._unfinished = _Unfinished(manifest, best)
        if state is not None:
            copy, member = self._copy.take(state), self._world.layout.member
            self._work = self._thread.submit(write_member, self._folder, manifest.step, member, copy)

    def advance(self) -> None:
        """The next step of two, waiting for the threads: from files to a complete checkpoint, and that it is there.

        Collective over the world, where a checkpoint is under way.

        Raises:
            CheckpointError: something cannot be written; on all ranks.
        """
        assert self._unfinished is not None
        result = None
        with agreed(self._world.comm):
            if self._work is not None:
                result = self._result(self._work)
        self._work = None
        manifest, best = self._unfinished.manifest, self._unfinished.best
        if self._unfinished.has_files:
            self._unfinished, self._last_step = None, manifest.step
            return
        said = self._world.comm.allgather((self._world.layout.member, result))
        written = sorted((member, checksum) for member, checksum in said if checksum is not None)
        manifest = replace(manifest, checksums={member_name(member): checksum for member, checksum in written})
        self._unfinished = _Unfinished(manifest, best, has_files=True)
        if self._world.is_root:
            self._work = self._thread.submit(complete, self._folder, manifest, self._keep, best)

    def finish(self) -> None:
        """Wait until what is under way is a complete checkpoint. Collective over the world; raises as `advance`."""
        while self._unfinished is not None:
            self.advance()

    def close(self) -> None:
        """End the thread. Local."""
        self._thread.shutdown(wait=True)

    def _result(self, work: Future[Any]) -> Any:
        try:
            return work.result()
        except RunFolderError as error:
            left = f"checkpoint.resume=auto goes on from step {self._last_step}" if self._last_step else "none is left"
            raise CheckpointError(f"{error}; the run has ended, {left}") from error
