"""OpenAI's HTTP API in front of whatever the admins have activated.

wire          what comes in and goes out, whichever server carries it
sessions      whose token it is, and what is known of its requests so far
options       the settings that every request needs
routing       which model a name means, and how it is asked
bodies        reading and changing a body without losing any of it
streams       what the books need to know of a stream that only passes through
passing       a request that goes on to a vendor as it is
translating   one that has to be said by an operation of the provider
api           the endpoints
"""
