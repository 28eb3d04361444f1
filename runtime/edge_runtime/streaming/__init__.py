"""The streaming core: from a source through branches to sinks, within a budget, with every frame accounted for."""

from edge_runtime.streaming.aio import astream
from edge_runtime.streaming.beside import Beside, imu_of, pose_of
from edge_runtime.streaming.branch import Branch, Rung
from edge_runtime.streaming.contracts import FrameSource, Postprocess, PreparedInput, Preprocess, Segmented
from edge_runtime.streaming.deadline import DeadlineController
from edge_runtime.streaming.failing import ErrorPolicy
from edge_runtime.streaming.intake import Intake
from edge_runtime.streaming.ledger import Ledger, LedgerSnapshot
from edge_runtime.streaming.mailbox import Mailbox, MailboxCounts
from edge_runtime.streaming.pipeline import Pipeline
from edge_runtime.streaming.policy import Decision, FixedPolicy, LadderPolicy, Policy, Situation
from edge_runtime.streaming.pool import ResultPool, Slot
from edge_runtime.streaming.records import (
    DecisionRecord,
    FrameRecord,
    Lap,
    LossRecord,
    Observer,
    SinkRecord,
    StreamEvent,
    StreamRecord,
)
from edge_runtime.streaming.report import BranchReport, SinkReport, StreamReport
from edge_runtime.streaming.scheduling import Scheduling
from edge_runtime.streaming.table import LatencySummary
from edge_runtime.streaming.thermal import Cap, CapHook, PowerMode, ThermalZones
from edge_runtime.streaming.watchdog import Watchdogs

__all__ = [
    "Beside",
    "Branch",
    "BranchReport",
    "Cap",
    "CapHook",
    "DeadlineController",
    "Decision",
    "DecisionRecord",
    "ErrorPolicy",
    "FixedPolicy",
    "FrameRecord",
    "FrameSource",
    "Intake",
    "LadderPolicy",
    "Lap",
    "LatencySummary",
    "Ledger",
    "LedgerSnapshot",
    "LossRecord",
    "Mailbox",
    "MailboxCounts",
    "Observer",
    "Pipeline",
    "Policy",
    "Postprocess",
    "PowerMode",
    "PreparedInput",
    "Preprocess",
    "ResultPool",
    "Rung",
    "Scheduling",
    "Segmented",
    "SinkRecord",
    "SinkReport",
    "Situation",
    "Slot",
    "StreamEvent",
    "StreamRecord",
    "StreamReport",
    "ThermalZones",
    "Watchdogs",
    "astream",
    "imu_of",
    "pose_of",
]
