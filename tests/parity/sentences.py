"""Plain prose of different lengths and subjects for the embedding comparisons."""

SENTENCES = """The kettle began to sing just as the rain stopped.
A library is a quiet machine for moving thoughts between centuries.
She repaired the old radio with a paper clip and a great deal of patience.
Invoices older than ninety days are handed to the collections team.
The river froze from its banks inward, leaving a dark seam in the middle.
How do I change the tyre of a bicycle without special tools?
Photosynthesis turns light, water and carbon dioxide into sugar and oxygen.
The committee postponed the vote until the missing figures arrive.
He plays the cello badly, loudly and with enormous joy.
Our flight was delayed by four hours because of fog over the harbour.
The recipe calls for two cups of flour, a pinch of salt and cold butter.
A binary search halves the remaining range at every step.
Children chased the paper lanterns down to the edge of the lake.
The patient should take one tablet in the morning and one at night.
Interest rates rose for the third time this year.
Nobody in the village remembered when the clock tower had last been right.
What is the capital of Mongolia?
The enzyme loses its activity above sixty degrees.
They argued about the map for an hour and then walked the wrong way anyway.
To reset your password, follow the link in the message we sent you.
The goalkeeper dived to the left and pushed the ball against the post.
Thick honey drips slowly; warm honey runs.
Two neutron stars spiralled into each other and rang the fabric of space.
The tenant must give notice in writing three months in advance.
My grandmother kept buttons in a tin that once held tea.
Wind turbines stand in a line along the ridge like patient giants.
The compiler removes code that can never be reached.
Snow had covered the signposts, so we followed the fence instead.
A good hypothesis is one that could turn out to be wrong.
The orchestra tuned to a single long note from the oboe.
Customs officers opened the crate and found nothing but oranges.
Is it safe to eat the skin of a kiwi fruit?
The bakery on the corner opens before the first tram.
Lava cooled into black glass along the shore.
The witness could not recall the colour of the car.
Plant the bulbs in autumn, twice as deep as they are tall.
He signed the treaty with a borrowed pen.
Sparse matrices store only the entries that are not zero.
The cat regarded the new sofa as a personal gift.
After the harvest the fields are left to rest for a year.
The museum will be closed on Mondays until further notice.
Salt lowers the temperature at which water freezes.
The detective noticed that the dog had not barked.
Please send the signed contract to the address below.
A murmuration of starlings folded and unfolded above the pier.
The bridge was designed to sway, but not as much as it did.
Vaccines teach the immune system to recognise a danger it has never met.
The train leaves from platform seven at twenty past nine.
She wrote the last chapter first and the first chapter never.
Gravity bends the path of light passing close to the sun.
The shop sells second-hand books, maps and the occasional accordion.
When two threads write to the same memory without order, anything may happen.
The judge asked both sides to speak more slowly.
An apprentice learns the trade by sweeping the floor of the workshop.
The lighthouse keeper counted the ships and wrote their names in a ledger.
How long does it take for concrete to cure in cold weather?
The melody returns in a minor key just before the end.
Bats find their way by listening to their own voices.
The mayor promised a new swimming pool and delivered a fountain.
Unused annual leave expires at the end of March.
The potter threw the bowl away because it was too perfect.
Deserts are cold at night since dry air holds little heat.
The translation is faithful, but it has lost the joke.
At dawn the market smelled of fish, bread and diesel.""".split("\n")
