"""Secrets, and how they are kept out of everything that is written, printed, logged, sent or answered.

1. `keys` tells by its name whether a variable holds a secret, and which parts of its value are secret by themselves.
2. `derivation` says what else an application makes of a secret: members of lists and JSON, encodings, lines.
3. `redactor` takes all of them out of texts and JSON, by value. There is one `Redactor` for each process.
4. `arguments` masks the command lines of other processes, whose secrets nobody has told us.

It runs in every process, and knows settings by name only.
"""
