"""Evaluation of networks on images with truth."""

from edge_sdk.evaluate.scores import SegmentationScores, dice_scores, predict_logits, predict_masks, score_masks

__all__ = ["SegmentationScores", "dice_scores", "predict_logits", "predict_masks", "score_masks"]
