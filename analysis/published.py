"""Published numbers that ours stand beside: test, full ranking, seen filtered.

MovieLens-1M, leave-last-out, from github.com/antklen/sasrec-bert4rec-recsys23.
"""

SASREC_CE = {"hr@10": 0.3152, "ndcg@10": 0.1821}  # there "SASRec+"
SASREC_BCE = {"hr@10": 0.2500, "ndcg@10": 0.1341}
