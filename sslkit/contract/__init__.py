"""What plugins are written against: everything that their authors must know, and nothing else.

A method is a :class:`PretextTask` (its options) that builds an :class:`Objective` (its trainable module). The one training loop
draws a :class:`Batch`, asks the objective for views, calls ``forward`` for the loss, and steps. It never names a method: what a
method does differently, it does by overriding a method of ``Objective``. Everything not marked abstract has a default.

Shapes: N images in a batch, C channels, H rows, W columns, D features, L tokens, K classes of a pretext task.
"""
