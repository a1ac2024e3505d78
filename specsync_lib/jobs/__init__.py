"""What the door starts as a process of its own and never imports: the room right of figures.

``live``: a recording or a microphone at the pace of speech.
"""
