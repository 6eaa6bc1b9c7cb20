"""`jielong chat`: what is typed goes through a session to one model or two, and what they write to the screen.

opening     which models, and whether they take turns or continue text
reading     messages, from a terminal, a pipe or a file
session     the loop: messages in, events out; knows nothing of a terminal
slashes     what a line that begins with / asks for
speaking    one model: what it sees of the conversation, and its answer
showing     events as text: one below the other, or
columns     side by side
saving      conversations as JSON lines
running     all of these together
"""
