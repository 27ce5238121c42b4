"""Torture: puts load on a service of its own, breaks what it stands on, and proves what must be true.

running    starts everything, lets the plan happen, waits until all is well, has it checked
telling    what was tried and what came of it, as a table and as JSON
plan       which fault comes when, from a seed
ground     the database, the services and the receivers, and how each fault is done to them
relay      the way to PostgreSQL, which can be cut and held up
process    a service whose clock can be stepped
partner    reports signals, as a process of its own
owner      subscribes, unsubscribes and saves rules, as a process of its own
receiver   takes webhooks, more or less, as a process of its own
wire       how clients ask, try again and write down what they were told
checker    judges the logs and the rows; it shares no code with any of this, nor with the product
"""
