"""Metrics in NumPy, which a device can compute too. Import the module that is needed:

`segmentation` (overlap, contour distances in mm), `ellipse` (head circumference), `classification` (accuracy, AUROC,
average precision, votes by patient), `calibration` (ECE, Brier score, log loss, reliability), `detection` (average
precision as COCO defines it), `image` (PSNR, SSIM), `trajectory` (GPE, drift, ATE, RPE of estimated poses;
`trajectory_files` reads those of TUS-REC), `volume` (correlation and overlap of volumes), `bootstrap` (intervals) and
`latency`.
"""

__all__: list[str] = []
