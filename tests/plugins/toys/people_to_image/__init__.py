"""Pictures of one or several people, each told by a photo of their face: identities as tokens."""
