"""Who runs when, and on what.

wanted       from a spec to the devices that it wants, and what these machines can never run
state        what planning starts from and what it decides, as plain records
fair_share   the order in which waiting jobs are looked at
board        the devices of all machines: free, coming free, held for somebody
preemption   whose devices a job of higher priority takes
plan         from a state to the decisions: a pure function
scheduler    reads the state from the store as cheaply as it can, and says what to do
limits       when an attempt must stop: its deadline, its longest runtime, no sign of life
waiting      why each waiting job waits, for people
"""
