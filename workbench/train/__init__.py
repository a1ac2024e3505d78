"""What makes data/models: corpora, trainers, model cards. A module is a command, ``notebooks/training`` the story.

Sound: ``kokoro``, ``sentences``, ``human_speech``, ``front``, ``front_card``, ``front_curves``, ``speech``, ``draft``,
``draft_card``, ``probe``, ``lessons``, ``reasoner``, ``reasoner_card``, ``splits``, ``clips``.
Pictures: ``faces``, ``vae``, ``transformer``, ``latent_material``, ``latent_basis``, ``latents``, ``adapter``,
``lip_faces``, ``lip_reader``.
"""
