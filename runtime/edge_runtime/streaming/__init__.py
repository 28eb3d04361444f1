"""The streaming core: from a source through branches to sinks, within a budget, with every frame accounted for."""

from edge_runtime.streaming.branch import Branch, Rung
from edge_runtime.streaming.contracts import FrameSource, Postprocess, PreparedInput, Preprocess, Segmented
from edge_runtime.streaming.deadline import DeadlineController, DecisionRecord
from edge_runtime.streaming.ledger import Ledger, LedgerSnapshot
from edge_runtime.streaming.mailbox import Mailbox, MailboxCounts
from edge_runtime.streaming.pipeline import Pipeline
from edge_runtime.streaming.policy import Decision, FixedPolicy, LadderPolicy, Policy, Situation
from edge_runtime.streaming.pool import ResultPool, Slot
from edge_runtime.streaming.report import BranchReport, SinkReport, StreamReport
from edge_runtime.streaming.table import LatencySummary

__all__ = [
    "Branch",
    "BranchReport",
    "DeadlineController",
    "Decision",
    "DecisionRecord",
    "FixedPolicy",
    "FrameSource",
    "LadderPolicy",
    "LatencySummary",
    "Ledger",
    "LedgerSnapshot",
    "Mailbox",
    "MailboxCounts",
    "Pipeline",
    "Policy",
    "Postprocess",
    "PreparedInput",
    "Preprocess",
    "ResultPool",
    "Rung",
    "Segmented",
    "SinkReport",
    "Situation",
    "Slot",
    "StreamReport",
]
