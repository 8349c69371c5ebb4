"""Several models over several domains of one data set, as one table: a row a backbone, a column a domain, and the mean.

After the CLIP demo of https://github.com/jindongwang/transferlearning (code/clip): zero-shot, feature extraction and
fine-tuning over `ROOT/DOMAIN/CLASS/IMAGE`. The command is `attune transfer`.
"""
