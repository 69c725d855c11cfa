"""Does this machine's GPU train and sample as it should, and how fast? The real trainer and engines on a random model.

run          starts the parts in processes of their own; writes the report
parts        the parts by name, their verdicts, what they share
random_model a random model whose responses are answered, and problems for it
machine      rates of the hardware
packs        packed log-probs and gradients against the plain forward pass
steps        three training steps with each engine, and what they cost
resume       a kill in the middle of a save
sampling     an evaluation's log-probs against the trainer's
plain_policy an optimizer for machines without DeepSpeed
rates        what the plan reads from a report
"""
